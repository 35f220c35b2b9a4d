"""Packages that import torchvision are to be found here."""

from tests import cpu_torchvision as cpu_torchvision
