"""Designs: which chains a study trains with, and what it compares. Each function returns a `Design`."""

from gradchain.ablation.arms import Arm as Arm
from gradchain.ablation.arms import Contrast as Contrast
from gradchain.ablation.arms import Design as Design
from gradchain.ablation.designs.beside import beside as beside
from gradchain.ablation.designs.exchange import orders as orders
from gradchain.ablation.designs.exchange import swap as swap
from gradchain.ablation.designs.factorial import factorial as factorial
from gradchain.ablation.designs.forward import add_one_in as add_one_in
from gradchain.ablation.designs.removal import interactions as interactions
from gradchain.ablation.designs.removal import leave_one_out as leave_one_out
from gradchain.ablation.designs.values import edited as edited
from gradchain.ablation.designs.values import sweep as sweep
