"""The tasks that come with gradchain: real data that ships with packages, and functions whose optimum is known."""

from gradchain.ablation.builtin import charlm as charlm
from gradchain.ablation.builtin import digits as digits
from gradchain.ablation.builtin import lora as lora
from gradchain.ablation.builtin import synthetic as synthetic
from gradchain.ablation.builtin import tables as tables
