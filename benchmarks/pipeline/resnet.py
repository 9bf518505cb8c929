"""ResNet18 with dropout before its last layer, for `model.factory`."""

from torch import nn
from torchvision import models


def resnet18(num_classes, dropout=0.5):
    """Return the network. Everything but its last layer runs once for all posterior samples."""
    network = models.resnet18(num_classes=num_classes)
    network.fc = nn.Sequential(nn.Dropout(dropout), network.fc)
    return network
