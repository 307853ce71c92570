from collections.abc import Iterator

import pytest

from lit_offrl.data.builtin import pendulum


@pytest.fixture(scope="package", autouse=True)
def minari_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Minari folder with a few episodes of pendulum."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("minari")
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        patch.setenv("LIT_OFFRL_CACHE", str(folder / "cache"))
        pendulum.make(scale=0.02)
        yield
