"""What items ask of a cluster, with scripted capacities and weights that are only as large as they say."""

import json

import pytest

from fpvec_audit.domain.fleet import FleetAction
from fpvec_audit.errors import OperationError
from fpvec_audit.fleet.capacity import Capacity, Machine
from fpvec_audit.fleet.sizing import Need, Sizing

MIB, GB = 1 << 20, 10**9
PROCESSORS = Capacity(cpus=8, memory=10**12, gpus=0, nodes=1, machines=(Machine("a", "n1"),))
LARGE, SMALL, BARE = Machine("a", "n1", 8, 80 * GB), Machine("b", "n2", 2, 24 * GB), Machine("c", "n3")
ENGINES = (FleetAction.AUDIT, FleetAction.TRACE, FleetAction.ATTACK)


def cluster(*machines):
    gpus = sum(machine.gpus for machine in machines)
    return Capacity(cpus=8, memory=10**12, gpus=gpus, nodes=len(machines), machines=machines)


@pytest.fixture
def checkpoint(tmp_path):
    """Return all that an item says about a model of a size."""

    def sized(size, **said):
        with (tmp_path / "model.safetensors").open("wb") as file:
            file.truncate(size)
        (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 40}))
        return dict.fromkeys(("downstream", "suspect", "stamped"), str(tmp_path)) | said

    return sized


def test_needs_follow_from_the_size_of_the_checkpoint(checkpoint):
    whole = checkpoint(1024 * MIB)
    assert Sizing().need(FleetAction.STAMP, whole, PROCESSORS) == Need(1, 512 * MIB, 0, 2048 * MIB)
    assert Sizing().need(FleetAction.AUDIT, whole, PROCESSORS) == Need(1, 5120 * MIB, 0, 1024 * MIB)
    assert Sizing(2, 7, 1).need(FleetAction.AUDIT, whole, cluster(LARGE)) == Need(2, 7, 1, 1024 * MIB)


def test_needs_are_of_few_kinds_however_many_sizes_there_are(checkpoint):
    sizes = range(0, 64 * 1024 * MIB, 300 * MIB)
    kinds = {Sizing().need(FleetAction.AUDIT, checkpoint(size), PROCESSORS).memory for size in sizes}
    assert len(kinds) < 40
    assert min(kinds) == 768 * MIB


@pytest.mark.parametrize("action", ENGINES)
@pytest.mark.parametrize(
    ("size", "gpus", "division"), [(0, 1, None), (14 * GB, 1, None), (60 * GB, 4, 4), (140 * GB, 5, 5)]
)
def test_engine_takes_as_few_gpus_as_hold_its_model_and_the_base(checkpoint, action, size, gpus, division):
    need = Sizing().need(action, checkpoint(size), cluster(LARGE))
    assert (need.gpus, need.tensor_parallel, need.nodes, need.device) == (gpus, division, (), None)


def test_model_that_lies_elsewhere_is_divided_by_its_own_configuration(checkpoint):
    whole = {"suspect": f"file://{checkpoint(60 * GB)['suspect']}"}
    need = Sizing().need(FleetAction.AUDIT, whole, cluster(Machine("a", "n1", 8, 40 * GB)))
    assert (need.gpus, need.tensor_parallel) == (5, 5)  # of 40 heads, and 4 do not do
    with pytest.raises(OperationError, match="fit the GPUs of no node"):
        Sizing().need(FleetAction.AUDIT, whole, cluster(SMALL))


def test_stamp_and_endpoint_never_take_a_gpu(checkpoint):
    whole = checkpoint(60 * GB)
    assert Sizing().need(FleetAction.STAMP, whole, cluster(LARGE)) == Sizing().need(
        FleetAction.STAMP, whole, PROCESSORS
    )
    assert Sizing().need(FleetAction.AUDIT, {"suspect": "https://host/v1"}, cluster(LARGE)).gpus == 0


def test_item_goes_to_the_nodes_that_hold_it_on_the_fewest_gpus(checkpoint):
    both = cluster(LARGE, SMALL, BARE)
    assert Sizing().need(FleetAction.AUDIT, checkpoint(3 * GB), both).nodes == ()
    need = Sizing().need(FleetAction.AUDIT, checkpoint(14 * GB), both)
    assert (need.gpus, need.nodes) == (1, ("n1",))


def test_node_that_does_not_say_how_large_its_gpus_are_is_given_one(checkpoint):
    assert Sizing().need(FleetAction.AUDIT, checkpoint(140 * GB), cluster(Machine("a", "n1", 4))).gpus == 1


def test_model_that_no_node_holds_is_refused_with_what_each_has(checkpoint):
    with pytest.raises(OperationError, match=r"its 60\.0 GB .* of no node.*: b 2 of 24\.0 GB, c none"):
        Sizing().need(FleetAction.AUDIT, checkpoint(60 * GB), cluster(BARE, SMALL))
    one_piece = checkpoint(140 * GB, backend="transformers")
    with pytest.raises(OperationError, match=r"a 8 of 80\.0 GB"):
        Sizing().need(FleetAction.AUDIT, one_piece, cluster(LARGE))


def test_what_is_said_holds_instead(checkpoint):
    whole = checkpoint(60 * GB)
    need = Sizing(gpus=2).need(FleetAction.AUDIT, whole, cluster(LARGE))
    assert (need.gpus, need.tensor_parallel) == (2, None)  # the engine settles it among those two
    need = Sizing(tensor_parallel=5).need(FleetAction.AUDIT, whole, cluster(LARGE))
    assert (need.gpus, need.tensor_parallel) == (5, 5)
    assert Sizing(tensor_parallel=2).need(FleetAction.AUDIT, whole, PROCESSORS).gpus == 0
    for much in (Sizing(gpus=3), Sizing(tensor_parallel=3)):
        with pytest.raises(OperationError, match=r"3 GPUs, and no node has so many: b 2 of 24\.0 GB"):
            much.need(FleetAction.AUDIT, whole, cluster(SMALL))


def test_engine_without_a_gpu_keeps_off_those_of_its_node(checkpoint):
    for sizing, whole in ((Sizing(gpus=0), checkpoint(GB)), (Sizing(), checkpoint(GB, device="cpu"))):
        need = sizing.need(FleetAction.AUDIT, whole, cluster(LARGE))
        assert (need.gpus, need.device) == (0, "cpu")
    assert Sizing().need(FleetAction.AUDIT, checkpoint(GB), PROCESSORS).device is None
