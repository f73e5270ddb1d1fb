"""The network of a trained model alone: images to its outputs, without loss, metrics or training."""

import hashlib

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """A backbone under its head, in eval mode.

    Args:
        backbone: which normalises images itself.
        head: of a classifier or of a siamese run.
        outputs: the names of what `forward` returns: ("scores", "features"), or ("embeddings",).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.backbone, self.head, self.outputs = backbone, head, outputs
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs, each float32.

        Args:
            images: uint8 [n, 3, size, size].

        Returns:
            Scores before softmax [n, classes] and features [n, out_features], or embeddings [n, dimensions] alone.
        """
        features = self.backbone(images)
        found: Tensor = self.head(features)
        return tuple(output.float() for output, _ in zip((found, features), self.outputs, strict=False))


def model_key(network: nn.Module, *more: str) -> str:
    """A key of the network's weights and of what else is said, equal where these are.

    Unlike the feature cache's it outlives versions of torch and of this project, as the galleries that ask for it do.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    for text in more:
        digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()
