"""Random chains: a grammar of stages that fit together, as hypothesis strategies."""

from __future__ import annotations

from hypothesis import strategies as st

import gradchain as gc
from gradchain import Chain, Partition, Stage, chain

Part = st.SearchStrategy[tuple["Stage | Partition", ...]]

rate = st.sampled_from([0.0, 0.5, 0.9, 0.99])
decay = st.sampled_from([0.0, 0.01, 0.3])
storage = st.sampled_from(["param", "fp32", "bf16"])
none: Part = st.just(())


def one(*stages: st.SearchStrategy[Stage]) -> Part:
    return st.one_of(*stages).map(lambda stage: (stage,))


def row(*parts: Part) -> Part:
    return st.tuples(*parts).map(lambda found: tuple(stage for part in found for stage in part))


wide = one(st.builds(gc.promote, st.sampled_from(["fp32", "fp64"])), st.builds(gc.promote, bf16=st.just("fp32")))
masters = one(st.builds(gc.master_weights, st.sampled_from(["fp24", "fp32", "fp64"])))

edits = st.lists(
    st.sampled_from(
        [
            gc.centralize(),
            gc.centralize(skip_singletons=False),
            gc.clip_by_value(0.5),
            gc.clip_by_norm(2.0),
            gc.clip_by_global_norm(3.0),
            gc.add_decayed_weights(0.05),
            gc.orthograd(),
            gc.orthograd("iterative", relative_floor=True),
        ]
    ),
    max_size=3,
    unique_by=lambda stage: type(stage).__name__,
).map(tuple)

average = st.builds(gc.first_moment, rate, st.booleans(), storage)
lion = st.builds(gc.lion_interpolate, rate, rate, storage)
tracked = st.builds(gc.track_first_moment, rate, storage)
project = st.builds(
    gc.momentum_project,
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([None, 0, 1]),
    horizon=st.sampled_from([None, 0.5]),
)
momentum = st.one_of(
    none,
    one(average, lion, tracked),
    one(st.builds(gc.heavy_ball, rate.filter(bool), rate, st.booleans(), storage)),
    row(one(project), one(average, lion, tracked)),
    st.tuples(rate, storage).map(
        lambda drawn: (gc.first_moment(drawn[0], bias_correction=False, storage=drawn[1]), gc.debias(drawn[0]))
    ),
)

ranges = one(
    st.builds(
        gc.range_normalize,
        st.sampled_from(["range", "abs_range"]),
        st.sampled_from([0.5, 1.0]),
        st.sampled_from([None, 0.1]),
    )
)
gate = st.one_of(none, st.just((gc.cv_trust_gate(),)))
resolve = one(
    st.builds(gc.divide, st.sampled_from([1e-8, 1e-3])), st.builds(gc.atan2_scale, st.sampled_from([1.0, 1.27]))
)
clipped = st.one_of(none, st.just((gc.step_clip(),)))
shifting = st.builds(
    lambda warm_in, correction, storage: (
        gc.kourkoutas_beta(k_warmup_steps=1, warm_in=warm_in).rename(beta2_max="beta2"),  # betas[1] may be another's
        gc.second_moment(0.99, correction, storage).rename(beta="beta2"),
    ),
    st.sampled_from(["linear", "switch"]),
    st.booleans(),
    storage,
)
denominator = st.one_of(
    none,
    row(one(st.builds(gc.second_moment, rate, st.booleans(), storage)), resolve),
    row(
        one(st.builds(gc.adopt, rate, st.booleans(), st.sampled_from(["effective", "raw"]), storage)), resolve, clipped
    ),
    row(shifting, resolve),
    row(ranges, gate, resolve),
    st.just((gc.sign(),)),
)

lr = st.just((gc.scale_by_learning_rate(0.05),))
plain = st.builds(gc.decoupled_decay, decay)
scheduled = st.builds(gc.decoupled_decay, decay, st.just(True), st.just(0.1), st.booleans())
spectral = st.builds(
    gc.spectral_decay, decay, st.booleans(), st.sampled_from(["param", "compute"]), st.sampled_from([None, 0.5])
)
routed = st.builds(
    lambda matrix, vector: gc.partition(
        {"matrix": matrix, "vector": vector.rename(weight_decay="vector_decay")}, gc.matrix_or_vector
    ),
    spectral,
    plain,
)
decays = st.one_of(none, one(plain, scheduled, spectral), routed.map(lambda partition: (partition,)))

body = row(edits, momentum, denominator, lr, decays)
chains: st.SearchStrategy[Chain] = st.one_of(
    body,
    row(masters, body),
    row(wide, body),
    row(wide, body, st.builds(gc.stochastic_round, st.integers(0, 3)).map(lambda stage: (stage,))),
).map(lambda stages: chain(*stages))
