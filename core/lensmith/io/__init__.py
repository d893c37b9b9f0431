"""The lowest floor: files, JSON and text of strangers, the terminal. Imports nothing of lensmith but `errors`."""
