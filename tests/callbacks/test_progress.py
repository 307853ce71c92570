import re

import pytest

from lit_offrl_callbacks.online_evaluation import OnlineEvaluation
from lit_offrl_callbacks.progress import UpdateProgress
from tests.callbacks.training import data_module, fit


def test_one_line_per_epoch_tells_update_numbers_and_speed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fit(data_module(), OnlineEvaluation(episodes=1), UpdateProgress(), enable_progress_bar=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" · ")[0] for line in lines] == ["update 10", "update 20", "update 25"]
    for line in lines:
        _, one, two, three, speed = line.split(" · ")
        assert re.fullmatch(r"return -\d+(\.\d+)?", one)
        assert two.startswith("score ")
        assert three.startswith("held-out NLL ")
        assert re.fullmatch(r"[1-9]\d* updates/s", speed)


def test_held_out_numbers_stand_only_where_they_were_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fit(data_module(), UpdateProgress(), check_val_every_n_epoch=2, enable_progress_bar=True)
    lines = capsys.readouterr().out.splitlines()
    assert ["held-out" in line for line in lines] == [False, True, False]


def test_evaluation_does_not_count_as_training_time(capsys: pytest.CaptureFixture[str]) -> None:
    speeds = []
    for episodes in (0, 20):
        evaluation = OnlineEvaluation(episodes=episodes)
        fit(data_module(), evaluation, UpdateProgress(), steps=40, enable_progress_bar=True)
        lines = capsys.readouterr().out.splitlines()
        speeds.append(max(int(line.split()[-2]) for line in lines))
    assert speeds[1] > speeds[0] / 5


def test_other_ranks_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = UpdateProgress()
    progress.disable()  # which Lightning does on them
    fit(data_module(), progress, enable_progress_bar=True)
    assert capsys.readouterr().out == ""


def test_on_a_terminal_a_bar_counts_updates(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("TERM", "xterm")
    fit(data_module(), UpdateProgress(refresh_seconds=0.0), enable_progress_bar=True)
    out = capsys.readouterr().out
    assert "/25 updates" in out
    assert "BC" in out
