"""The compiled train step on eight devices: what each holds, and what they send one another."""

import math
import re
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from support import tiny

from medclip_jax import losses, sharding
from medclip_jax.train.collectives import Collective, read_collectives

ROWS, SIZE = 40, 64
MESHES = {
    "data": {"data": 8, "fsdp": 1, "tensor": 1},
    "fsdp": {"data": 1, "fsdp": 8, "tensor": 1},
    "both": {"data": 2, "fsdp": 4, "tensor": 1},
    "tensor": {"data": 2, "fsdp": 2, "tensor": 2},
}


class Compiled(NamedTuple):
    """Bytes of parameters and optimiser state on a device, and the transfers of a step."""

    parameters: int
    optimizer: int
    collectives: Counter[Collective]
    text: str


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that compiles the contrastive step of a ViT and a BERT."""
    tokens = tiny.tokenizer(tmp_path_factory.mktemp("tokens"))
    found: dict[str, Compiled] = {}

    def compile_for(mesh: str) -> Compiled:
        if mesh not in found:
            found[mesh] = _compile(tokens, MESHES[mesh])
        return found[mesh]

    return compile_for


def _compile(tokens: Any, axes: dict[str, int]) -> Compiled:
    config = tiny.tiny_config("convirt", fsdp_min_size=256, batch_size=ROWS)
    sizes = {"hidden_size": SIZE, "num_layers": 2, "num_heads": 4}
    config.image_encoder.update(name="vit", patch_size=16, **sizes)
    config.text_encoder.update(sizes | {"intermediate_size": 4 * SIZE, "dropout_rate": 0.0})
    config.text_encoder.max_position_embeddings = tiny.LENGTH
    config.projection.size = SIZE
    state, step = tiny.start(config, tokens, axes)
    mesh = sharding.make_mesh(axes)
    batch = jax.device_put(tiny.batch(tokens, ROWS), sharding.batch_sharding(mesh))
    text = step.lower(state, batch).compile().as_text()
    return Compiled(_held(state.params), _held(state.opt_state), read_collectives(text), text)


def _held(tree: Any) -> int:
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("mesh", "parts"), [pytest.param("fsdp", 8, marks=pytest.mark.slow), ("both", 4)]
)
def test_parameters_and_optimizer_state_fall_with_fsdp(
    compiled: Any, mesh: str, parts: int
) -> None:
    whole, split = compiled("data"), compiled(mesh)
    # Norms, biases and the step are small and stay whole.
    assert whole.parameters / split.parameters > 0.85 * parts
    assert whole.optimizer / split.optimizer > 0.85 * parts
    # Adam keeps two averages, where the parameters are.
    assert split.optimizer == pytest.approx(2 * split.parameters, rel=0.01)


def test_tensor_parts_come_on_top(compiled: Any) -> None:
    assert compiled("data").parameters / compiled("tensor").parameters > 2.5


@pytest.mark.parametrize("mesh", MESHES)
def test_no_matrix_of_the_batch_and_no_whole_activation_is_sent(compiled: Any, mesh: str) -> None:
    sent = [shape for collective in compiled(mesh).collectives for shape in collective.shapes]
    assert sent
    for shape in sent:
        sides = [int(side) for side in re.findall(r"\d+", shape.partition("[")[2])]
        assert sides.count(ROWS) < 2, shape
        assert not (len(sides) > 2 and sides[0] == ROWS), shape


def test_data_parallel_adds_gradients_up_once(compiled: Any) -> None:
    collectives = compiled("data").collectives
    gradients = [c for c in collectives.elements() if c.kind == "all-reduce"]
    moved = sum(c.num_bytes for c in gradients)
    # Of all parameters, and little else.
    assert 1.0 <= moved / compiled("data").parameters < 1.2


def test_fsdp_gathers_each_parameter_once_or_twice(compiled: Any) -> None:
    collectives = compiled("fsdp").collectives
    gathered = sum(c.num_bytes for c in collectives.elements() if c.kind == "all-gather")
    assert 1.0 < gathered / compiled("data").parameters < 2.5


def test_a_device_computes_its_rows_only(compiled: Any) -> None:
    products = re.findall(r"= \w+\[([\d,]+)\][^=]* dot\(", compiled("both").text)
    largest = max(math.prod(map(int, sides.split(","))) for sides in products)
    tokens = max(1 + (tiny.SIZE // 16) ** 2, tiny.LENGTH)
    assert largest <= ROWS // 8 * tokens * 4 * SIZE


def test_65536_pairs_need_less_than_two_gibibytes() -> None:
    mesh = sharding.make_mesh(MESHES["data"])
    rows = sharding.batch_sharding(mesh)

    def loss(images: jax.Array, texts: jax.Array, groups: jax.Array) -> jax.Array:
        return losses.info_nce(images, texts, temperature=0.07, group_ids=groups, tile_size=1024)[0]

    embeddings = jax.ShapeDtypeStruct((65_536, 512), jnp.float32, sharding=rows)
    groups = jax.ShapeDtypeStruct((65_536, 2), jnp.int32, sharding=rows)
    program = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(
        embeddings, embeddings, groups
    )
    memory = program.compile().memory_analysis()
    assert 8 * memory.temp_size_in_bytes < 2 * 2**30
