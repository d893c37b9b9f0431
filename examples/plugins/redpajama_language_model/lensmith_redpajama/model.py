"""The network is what `hf_causal` makes of the checkpoint; imported when it is built."""

import lensmith

HfCausal = lensmith.discover().get("language_model", "hf_causal").load()


class RedPajamaModel(HfCausal):
    @classmethod
    def build(cls, spec, loading):
        return HfCausal.build(spec.causal(), loading)

    @classmethod
    def load_tokenizer(cls, spec):
        return HfCausal.load_tokenizer(spec.causal())

    @classmethod
    def measure(cls, spec):
        return HfCausal.measure(spec.causal())
