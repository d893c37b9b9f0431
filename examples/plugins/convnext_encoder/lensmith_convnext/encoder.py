"""The network and its picture transform; imported when the encoder is built."""

import timm
from PIL import ImageOps
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.transforms.functional import normalize, to_tensor

import lensmith


class ConvNextPreprocessing(lensmith.Preprocessing):
    def __init__(self, spec):
        self.size, self.settings = (spec.image_size, spec.image_size), timm.get_pretrained_cfg(spec.model)
        self.background = tuple(int(255 * value) for value in self.settings.mean)

    def __call__(self, image):
        return normalize(to_tensor(ImageOps.fit(image, self.size)), self.settings.mean, self.settings.std)


class ConvNextEncoder(lensmith.VisionEncoder):
    @classmethod
    def build(cls, spec, loading):
        encoder, side = cls(), spec.image_size // 32
        encoder.network = timm.create_model(spec.model)
        encoder.network.head = nn.Identity()  # what lies past the map
        if spec.checkpoint and loading.weights:
            weights = load_file(spec.checkpoint)
            encoder.network.load_state_dict({k: v for k, v in weights.items() if not k.startswith("head.")})
        encoder.shape = lensmith.VisionShape((spec.image_size,) * 2, (side, side), encoder.network.num_features)
        return encoder.to(loading.dtype)

    @classmethod
    def preprocessing(cls, spec):
        return ConvNextPreprocessing(spec)

    def forward(self, pixels):
        """Encode views: pixels (V, 3, H, W) to (V, N, W), N = H/32 · W/32."""
        return self.network.forward_features(pixels).flatten(2).transpose(1, 2)

    def save(self, folder, state=None):
        own = {k.removeprefix("network."): v.contiguous() for k, v in (state or self.state_dict()).items()}
        save_file(own, folder / "model.safetensors")
