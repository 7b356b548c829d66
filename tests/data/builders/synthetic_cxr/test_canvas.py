"""The canvas against plain geometry."""

import numpy as np
import pytest

from medclip_jax.data.builders.synthetic_cxr.canvas import Canvas, Pose, spline

_POSE = Pose(angle=20, magnification=0.8, shift_x=0.07, shift_y=-0.04)


def _square(centre: tuple[float, float], side: float) -> np.ndarray:
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * side / 2
    return np.asarray(centre) + corners


def test_pose_turns_scales_and_shifts_about_the_centre() -> None:
    points = Canvas(64, Pose(angle=90, magnification=0.5, shift_x=0.1)).fractions(
        np.array([[0.5, 0.5], [0.9, 0.5]])
    )
    np.testing.assert_allclose(points, [[0.6, 0.5], [0.6, 0.7]], atol=1e-12)


def test_grids_invert_the_pose() -> None:
    canvas = Canvas(50, _POSE)
    points = np.stack([canvas.x.ravel(), canvas.y.ravel()], 1).astype(float)
    column, row = np.meshgrid((np.arange(50) + 0.5) / 50, (np.arange(50) + 0.5) / 50)
    expected = np.stack([column.ravel(), row.ravel()], 1)
    np.testing.assert_allclose(canvas.fractions(points), expected, atol=1e-6)


@pytest.mark.parametrize("size", [96, 192])
def test_filled_square_has_its_area_and_place(size: int) -> None:
    mask = Canvas(size, _POSE).fill(_square((0.6, 0.4), 0.3))
    # OpenCV's filled edges are up to half a pixel too far out on each side.
    assert np.sqrt(mask.sum()) == pytest.approx(0.3 * 0.8 * size, abs=1.0)
    rows, columns = np.indices(mask.shape)
    centre = [(columns * mask).sum() / mask.sum(), (rows * mask).sum() / mask.sum()]
    expected = Canvas(size, _POSE).fractions(np.array([[0.6, 0.4]]))[0] * size - 0.5
    np.testing.assert_allclose(centre, expected, atol=0.3)


@pytest.mark.parametrize("width", [0.004, 0.03])
def test_a_line_covers_about_the_same_share_at_every_size(width: float) -> None:
    line = np.array([[0.2, 0.3], [0.8, 0.6]])
    shares = [
        Canvas(size, Pose()).stroke(([line], width, 1.0)).mean() for size in (64, 128, 256, 512)
    ]
    assert max(shares) < 1.35 * min(shares)
    # OpenCV's round ends and antialiasing add to the area: up to 3 pixels of the raster in width.
    length, raster_pixel = np.hypot(0.6, 0.3), 1 / (2 * 512)
    drawn = shares[-1] / length - np.pi * width**2 / (4 * length)
    assert width < drawn < width + 3 * raster_pixel


def test_depth_is_the_distance_to_the_edge() -> None:
    canvas = Canvas(200, Pose(magnification=0.5))
    depth = canvas.depth(canvas.fill(_square((0.5, 0.5), 0.4)))
    assert depth.max() == pytest.approx(0.2, abs=0.015)
    assert depth[0, 0] == 0


def test_squared_distance_is_in_chest_coordinates() -> None:
    canvas = Canvas(40, _POSE)
    distance = canvas.squared_distance(np.array([0.3, 0.7]), stretch_y=2.0)
    np.testing.assert_allclose(
        distance, (canvas.x - 0.3) ** 2 + ((canvas.y - 0.7) / 2) ** 2, rtol=1e-6
    )


def test_noise_moves_with_the_chest_and_is_standardised() -> None:
    still, moved = Canvas(128, Pose()), Canvas(128, Pose(shift_x=0.125))
    first, second = still.noise(3, 20), moved.noise(3, 20)
    np.testing.assert_allclose(second[:, 16:], first[:, :-16], atol=1e-3)
    assert not np.allclose(still.noise(4, 20), first)
    assert abs(first.mean()) < 0.2
    assert 0.5 < first.std() < 1.2


def test_spline_passes_through_its_controls_and_is_smooth() -> None:
    controls = [(0.0, 0.0), (1.0, 2.0), (2.0, 0.0), (3.0, 1.0)]
    curve = spline(controls, 31)
    np.testing.assert_allclose(curve[[0, 10, 20, 30]], controls, atol=1e-12)
    assert np.abs(np.diff(curve, 2, axis=0)).max() < 0.15


def test_spline_of_points_on_a_line_stays_on_it() -> None:
    curve = spline([(0.0, 0.0), (1.0, 2.0), (2.0, 4.0), (3.0, 6.0)], 20)
    np.testing.assert_allclose(curve[:, 1], 2 * curve[:, 0], atol=1e-12)
