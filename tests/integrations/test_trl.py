"""The SFTTrainer of TRL hands the class and its keywords on; a run that goes on from a checkpoint ends the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.integrations.tiny import OPTIMIZERS, WORDS, differing, llama, values

trl = pytest.importorskip("trl", reason="pip install gradchain[integrations]")
datasets = pytest.importorskip("datasets", reason="pip install gradchain[integrations]")
peft = pytest.importorskip("peft", reason="pip install gradchain[integrations]")
transformers = pytest.importorskip("transformers", reason="pip install gradchain[integrations]")
tokenizers = pytest.importorskip("tokenizers", reason="pip install gradchain[integrations]")

# transformers 5.23 warns about its own attribute whenever a model is made.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TEXTS = ["a b c d e f g h", "h g f e d c b a", "a c e g b d f h", "b a d c f e h g"]


def tokenizer() -> Any:
    words = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefgh"]
    assert len(words) <= WORDS
    model = tokenizers.models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>")
    plain = tokenizers.Tokenizer(model)
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def trainer(model: nn.Module, folder: Path, name: str, **more: Any) -> Any:
    cls, options = OPTIMIZERS[name]
    arguments = trl.SFTConfig(
        output_dir=str(folder), max_steps=4, save_steps=2, per_device_train_batch_size=2, use_cpu=True, bf16=False,
        disable_tqdm=True, report_to=[], weight_decay=0.05, dataloader_pin_memory=False,
        max_length=16, activation_checkpointing=False,
    )  # fmt: skip
    return trl.SFTTrainer(
        model, arguments, train_dataset=datasets.Dataset.from_dict({"text": TEXTS * 2}), processing_class=tokenizer(),
        optimizer_cls_and_kwargs=(cls, copy.deepcopy(options)), **more,
    )  # fmt: skip


@pytest.mark.parametrize("adapter", [None, "dora"])
@pytest.mark.parametrize("name", ["Rose", "AdamW_adv", "Prodigy_adv", "FromRecipe"])
def test_fine_tuning_goes_on_from_a_checkpoint(name: str, adapter: str | None, tmp_path: Path) -> None:
    def more() -> dict[str, Any]:
        return {"peft_config": peft.LoraConfig(r=4, use_dora=True, target_modules=["q_proj"])} if adapter else {}

    first = trainer(llama(), tmp_path, name, **more())
    start = values(first.model)
    first.train()
    end = values(first.model)
    moved = {key for key, param in first.model.named_parameters() if param.requires_grad}
    assert {*differing(start, end)} == moved
    assert type(first.optimizer.optimizer) is OPTIMIZERS[name][0]
    second = trainer(llama(), tmp_path, name, **more())
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert differing(end, values(second.model)) == []
