"""Named recipes: functions that return a chain. `gradchain.recipes()` lists their names."""

from __future__ import annotations

import sys
from types import ModuleType

from gradchain._chain.recipes import recipe_names

from .adafactor import adafactor as adafactor
from .adafactor import adam_mini as adam_mini
from .adafactor import came as came
from .adam_variants import adabelief as adabelief
from .adam_variants import laprop as laprop
from .adam_variants import mars_adamw as mars_adamw
from .adam_variants import nadam as nadam
from .adam_variants import radam as radam
from .adam_variants import sophia as sophia
from .adam_variants import stable_adamw as stable_adamw
from .adams import adams as adams
from .adv_muon import adv_adamuon as adv_adamuon
from .adv_muon import adv_muon as adv_muon
from .adv_optm import adv_adamw as adv_adamw
from .adv_optm import adv_adamw_orthograd as adv_adamw_orthograd
from .adv_optm import adv_adamw_scaled as adv_adamw_scaled
from .adv_optm import adv_adopt as adv_adopt
from .adv_optm import adv_adopt_factored as adv_adopt_factored
from .adv_optm import adv_adopt_factored_ademamix as adv_adopt_factored_ademamix
from .adv_optm import adv_lion as adv_lion
from .adv_optm import adv_lion_prodigy as adv_lion_prodigy
from .adv_optm import adv_prodigy as adv_prodigy
from .adv_optm import adv_prodigy_factored as adv_prodigy_factored
from .adv_optm import adv_signsgd as adv_signsgd
from .adv_sinksgd import adv_sinksgd as adv_sinksgd
from .classic import adam_atan2 as adam_atan2
from .classic import adamw as adamw
from .classic import lion as lion
from .classic import sgd as sgd
from .gyro import gyro_adam as gyro_adam
from .gyro import gyro_sgd as gyro_sgd
from .layerwise import hyperball as hyperball
from .layerwise import lamb as lamb
from .layerwise import lars as lars
from .low_rank import apollo as apollo
from .low_rank import galore_adamw as galore_adamw
from .muon import muon as muon
from .muon import normuon as normuon
from .muon import scion as scion
from .preconditioned import shampoo as shampoo
from .preconditioned import soap as soap
from .rose import rose as rose
from .rose import rose_1_0_2 as rose_1_0_2
from .schedule_free import schedule_free_adamw as schedule_free_adamw
from .schedule_free import schedule_free_sgd as schedule_free_sgd
from .sinkgd import sinkgd as sinkgd


class _Recipes(ModuleType):
    """This package, which also answers the call `gradchain.recipes()`."""

    def __call__(self) -> tuple[str, ...]:
        return recipe_names()


sys.modules[__name__].__class__ = _Recipes
