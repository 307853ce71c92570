"""Mistakes in what image observations are stored, drawn and seen with."""
# excerpts of code

from tests.mutant_lists import Mutant

MUTANTS: dict[str, list[Mutant]] = {"images": []}


def _add(file: str, tests: tuple[str, ...], *mutants: tuple[str, str, str]) -> None:
    MUTANTS["images"] += [Mutant(name, file, old, new, tests) for name, old, new in mutants]


_add(
    "encoders.py",
    ("test_encoders.py", "algorithms/test_images.py"),
    ("bytes not divided by 255", "/ 255", "/ 256"),
    ("smaller images taken", "SIDE = 32", "SIDE = 31"),
    ("more channels taken", "MAX_CHANNELS = 16", "MAX_CHANNELS = 17"),
    (
        "channels of a stack in another order",
        "[axis + 1 for axis in found], [-2, -1])",
        "[axis + 1 for axis in found], [-1, -2])",
    ),
    ("numbers behind an image lost", "if gap := pixels.obs_dim - sum(sections):", "if gap := 0:"),
    ("numbers before an image lost", "if gap := start - sum(sections):", "if gap := 0:"),
    ("another stride", "nn.Conv2d(32, 64, 4, stride=2)", "nn.Conv2d(32, 64, 4, stride=1)"),
    (
        "no ReLU behind the last residual part",
        "nn.Sequential(*layers, nn.ReLU(), nn.Flatten())",
        "nn.Sequential(*layers, nn.Flatten())",
    ),
    ("residual lost", "return x + residual", "return residual"),
    ("no ReLU before a residual part's convolution", "self.first(F.relu(x))", "self.first(x)"),
    ("small images given to nature", "< NATURE_SIDE:", "< 0:"),
    (
        "rows and columns of a shift swapped",
        "zip((height, width), offsets.unbind(-1), strict=True)",
        "zip((height, width), offsets.flip(-1).unbind(-1), strict=True)",
    ),
    ("a shift wraps around", ".clamp(0, n - 1)", ".remainder(n)"),
    ("a shift of another center", "+ offset[:, None] - pad)", "+ offset[:, None])"),
)
_add(
    "data/frames.py",
    ("data/test_frames.py", "data/test_pixels.py"),
    (
        "next images are the present ones",
        "index=self.index[rows], next_index=self.next_index[rows]",
        "index=self.index[rows], next_index=self.index[rows]",
    ),
    ("stacks on the last axis not turned", "stacks = stacks.swapaxes(1, 2)", "pass"),
    (
        "a frame seen before is stored again",
        "if t and np.array_equal(stack[:-1], stacks[t - 1, 1:]) else ()",
        "if False else ()",
    ),
    (
        "a stack taken for moved on by one",
        "if t and np.array_equal(stack[:-1], stacks[t - 1, 1:]) else ()",
        "if t else ()",
    ),
    ("padding stored frame by frame", "not np.array_equal(stack[slot], stack[slot - 1])", "True"),
    (
        "the last observation lost",
        "self._index[rows], self._next[rows] = index[:-1], index[1:]",
        "self._index[rows], self._next[rows] = index[:-1], index[:-1]",
    ),
    ("frames of all episodes count from 0", "self._count += len(found)", "pass"),
    ("numbers behind an image lost", "parts.append(numbers[..., at:])", "pass"),
    (
        "indices not counted",
        "return self.frames.nbytes + self.index.nbytes + self.next_index.nbytes",
        "return self.frames.nbytes",
    ),
)
_add(
    "data/pixels.py",
    ("data/test_pixels.py",),
    (
        "images of other rows",
        "own = [f.take(rows.flatten().numpy()) for f in frames]",
        "own = [f.take(rows.flatten().numpy()[::-1]) for f in frames]",
    ),
    (
        "next images are the present ones",
        "[f.images(f.next_index) for f in own])",
        "[f.images(f.index) for f in own])",
    ),
    (
        "one shift for all updates of a block",
        "for update in range(first_update, first_update + k)\n        ]\n        return",
        "for update in [first_update] * k\n        ]\n        return",
    ),
    (
        "one shift for both observations",
        "block.offsets.unbind(-2)",
        "[block.offsets[..., 0, :]] * 2",
    ),
    ("smaller shifts", "2 * self._shift, 2, 2)", "2 * self._shift - 1, 2, 2)"),
)
_add(
    "data/fitted_scaling.py",
    ("data/test_pixels.py", "online/test_datamodule.py"),
    ("pixels normalized", "whole[~_pixels(spec)] = numbers", "whole[:] = numbers.mean()"),
    ("pixels and numbers swapped", "rest = ~_pixels(spec)", "rest = _pixels(spec)"),
)
_add(
    "evaluation/environment.py",
    ("evaluation/test_environment.py",),
    (
        "wrappers from elsewhere",
        'own = str(wrapper["entry_point"]).startswith("gymnasium.wrappers.")',
        "own = True",
    ),
    ("wrappers that write files", 'wrapper["name"] in WRAPPERS and', ""),
    ("wrappers left out", "for wrapper in wrappers:", "for wrapper in wrappers[1:]:"),
)
