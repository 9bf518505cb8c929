"""Networks of published experiments, for `model.factory`."""

import torch.nn.functional as F
from torch import nn


class BatchBALDNet(nn.Module):
    """The network that BatchBALD's authors fit on MNIST (Kirsch et al. 2019, appendix D).

    Two 5 by 5 convolutions of 32 and 64 channels, each with dropout of whole channels, max-pooling
    and ReLU, and a hidden layer of 128 units with dropout; of grey pictures of 28 by 28 pixels.
    """

    def __init__(self, num_classes):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 64, 5)
        self.dropout1, self.dropout2 = nn.Dropout2d(), nn.Dropout2d()
        self.hidden, self.dropout3 = nn.Linear(1024, 128), nn.Dropout()
        self.last = nn.Linear(128, num_classes)

    def forward(self, images_N):
        """Grey pictures come as three channels that are alike."""
        x = F.relu(F.max_pool2d(self.dropout1(self.conv1(images_N[:, :1])), 2))
        x = F.relu(F.max_pool2d(self.dropout2(self.conv2(x)), 2))
        x = F.relu(self.hidden(x.flatten(1)))
        return self.last(self.dropout3(x))
