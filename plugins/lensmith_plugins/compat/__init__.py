"""Where other libraries' interfaces are known to move: one file a library, each probed where it is first used.

A probe raises `LibraryError`, which names the library, its version and the versions that were tested. Importing this
package imports none of them.
"""
