"""From the name of a data set to its transitions."""

from lit_offrl.data.cache import cached
from lit_offrl.data.d4rl_source import D4RLSource
from lit_offrl.data.minari_folder import locate
from lit_offrl.data.minari_source import MinariSource
from lit_offrl.data.soundness import one_line
from lit_offrl.data.spec import DatasetSpec
from lit_offrl.data.transitions import Transitions
from lit_offrl.errors import InputError


def load_dataset(
    dataset_id: str, get: bool = True, mapped: bool = False
) -> tuple[Transitions, DatasetSpec]:
    """Load a data set, in raw units, from the cache if it was loaded before.

    Args:
        dataset_id: Id of a Minari set, of a built-in set, or path of a D4RL ``.hdf5`` file.
        get: Whether to make or download a set that is not on this machine.
        mapped: Whether to fail, rather than to load into memory, if the cache cannot be written.

    Returns:
        Its transitions (read-only, mapped from the cache) and what is known of it.

    Raises:
        InputError: If there is no such set, or it is damaged or cannot be learned from.
    """
    source: D4RLSource | MinariSource
    if dataset_id.endswith((".hdf5", ".h5")):
        source = D4RLSource(dataset_id)
    else:
        source = MinariSource(*locate(dataset_id, get))
    content_hash = source.content_hash()
    try:
        transitions = cached(content_hash, source, needed=mapped)
    except MemoryError as error:
        raise InputError(
            f"Data set `{dataset_id}` does not fit into memory ({one_line(error)}): take a machine "
            "with more, or a smaller set."
        ) from None
    return transitions, source.spec(content_hash, transitions)
