"""Networks of published experiments, for `model.factory`."""

import torch.nn.functional as F
from torch import nn


class BatchBALDNet(nn.Module):
    """The network that BatchBALD's authors fit on MNIST (Kirsch et al. 2019, appendix D).

    It has two 5 by 5 convolutions of 32 and 64 channels, each with dropout of whole channels,
    max-pooling and ReLU, and a hidden layer of 128 units with dropout. Its input is grey images of
    28 by 28 pixels.
    """

    def __init__(self, num_classes):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 64, 5)
        self.dropout1, self.dropout2 = nn.Dropout2d(), nn.Dropout2d()
        self.hidden, self.dropout3 = nn.Linear(1024, 128), nn.Dropout()
        self.last = nn.Linear(128, num_classes)

    def forward(self, images_N):
        """Predict grey images, given as three equal channels."""
        x = F.relu(F.max_pool2d(self.dropout1(self.conv1(images_N[:, :1])), 2))
        x = F.relu(F.max_pool2d(self.dropout2(self.conv2(x)), 2))
        x = F.relu(self.hidden(x.flatten(1)))
        return self.last(self.dropout3(x))


# Channels of VGG16's convolutions, configuration D of Simonyan and Zisserman (2015). 0 is pooling.
_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


def vgg16_bn_32(num_classes, width=1.0, dropout=0.5):
    """Return VGG16 with batch normalisation for images of 32 by 32 pixels.

    Args:
        num_classes: Number of classes, C.
        width: Share of VGG16's channels in every layer. 0.25 takes a sixteenth of the time.
        dropout: Probability before each of the last two linear layers.
    """
    layers, inputs = [], 3
    for channels in _VGG16:
        if channels == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        outputs = round(channels * width)
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
        inputs = outputs
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(inputs, inputs),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(inputs, num_classes),
    )
