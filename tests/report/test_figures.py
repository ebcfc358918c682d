"""Figures from runs with known numbers: what is drawn, what stands beside it, and the files and objects they come as."""

import sys
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

import posenet_store
from posenet_store.errors import UsageError
from posenet_store.report.figures.curves import AXES, draw_axis, find_curves
from posenet_store.report.figures.inline import inline_svg
from posenet_store.report.figures.maps import average_errors, draw_border, draw_error_maps, error_by_distance
from posenet_store.report.figures.predicted_maps import draw_predicted_maps
from posenet_store.report.figures.table2 import draw_table2
from posenet_store.report.pairs import Partner
from posenet_store.report.published import ALL, KERNELS, PADDINGS, STAGES, TABLES
from posenet_store.report.run import FIGURES, Run, open_run
from posenet_store.report.scores import ScoreArchive
from posenet_store.report.significance import constant_error
from posenet_store.sweep.cell import make_cell_target
from tests.support.runs import cell, cli, constant, predicted, write

AXIS = {axis.name: axis for axis in AXES}


def opened(folder: Path, *cells: Partner) -> Run:
    return open_run(write(folder / "run", cells))


def kernels(*networks: str) -> list[Partner]:
    return [
        predicted(strength=kernel / 7, kernel=kernel, target=target, network=network)
        for network, target, kernel in product(networks, ("H", "G"), (1, 3, 7))
    ]


def test_a_curve_has_our_means_and_the_published_ones(tmp_path: Path) -> None:
    cells = kernels("pixels", "vgg16-hed")
    run = opened(tmp_path, *cells)
    picture = draw_axis(run.results, run.archive, AXIS["kernels"])
    assert picture
    ours = {(row[0], row[1]): row[2] for row in picture.rows if row[-1] == "ours"}
    for partner in cells:
        made = partner.result.cell
        network = partner.result.labels.network
        expected = f"{partner.result.scores['held-out'].spc:.3f}".replace("0.", ".")
        assert ours[made.target, f"{network}, kernel size {made.kernel}"] == expected
    theirs = {(row[0], row[1]): row[2] for row in picture.rows if row[-1] == "paper, Table 2b"}
    assert theirs["H", "VGG, kernel size 7"] == ".828"
    assert theirs["G", "PosENet, kernel size 3"] == "-.001"
    assert "VGG" not in {row[1] for row in picture.rows if "paper" not in row[-1]}
    assert len(picture.tips) == len(picture.rows)
    assert "SPC of H from kernel size 1 to 7" in picture.answer


def test_table2_shows_six_targets_and_says_of_how_many(tmp_path: Path) -> None:
    targets = ("H", "V", "G", "HS", "VS", *(f"ramp:{angle}" for angle in range(10, 50, 10)))
    run = opened(tmp_path, *(predicted(target=target) for target in reversed(targets)))
    picture = draw_table2(run.results, run.archive)
    assert picture
    assert [panel.get_title().partition("\n")[0] for panel in picture.figure.axes] == [*targets[:5], "ramp:40"]
    assert {row[0] for row in picture.rows} == {*targets[:5], "ramp:40"}
    assert "6 of 9 targets" in picture.caption


def test_an_axis_holds_all_else_and_takes_the_richest_set() -> None:
    rich = [cell(constant(0.5), kernel=kernel, padding=0).result for kernel in (1, 3, 5)]
    poor = [cell(constant(0.5), kernel=kernel, padding=1).result for kernel in (1, 3)]
    curves = find_curves([*poor, *rich], AXIS["kernels"])
    assert {setting for _, _, setting in curves} == {1, 3, 5}
    assert {record.cell.padding for records in curves.values() for record in records} == {0}
    assert find_curves(poor[:1], AXIS["kernels"]) == {}


def test_stages_are_single_taps_and_all_of_one_kind_of_input() -> None:
    inputs = ("full:f1", "full:f2", "full:f1+f2", "full", "aligned:f1", "aligned")
    curves = find_curves([cell(constant(0.5), input=text).result for text in inputs], AXIS["stages"])
    assert [setting for _, _, setting in curves] == ["f1", "f2", "all"]
    assert {record.cell.input for records in curves.values() for record in records} == {"full:f1", "full:f2", "full"}


def test_seeds_are_one_point_with_an_interval(tmp_path: Path) -> None:
    run = opened(tmp_path, *(predicted(padding=padding, seed=seed) for padding, seed in product((0, 1), (0, 1, 2))))
    picture = draw_axis(run.results, run.archive, AXIS["paddings"])
    assert picture
    assert [row[1] for row in picture.rows if row[-1] == "ours"] == ["vgg16-hed, padding 0", "vgg16-hed, padding 1"]
    assert all(row[3].startswith("[") for row in picture.rows if row[-1] == "ours")


def test_fewer_training_images_are_an_axis_without_published_values(tmp_path: Path) -> None:
    run = opened(tmp_path, *(predicted(train_rows=rows, noise=10 / rows) for rows in (10, 20, 40)))
    picture = draw_axis(run.results, run.archive, AXIS["amounts"])
    assert picture
    assert [row[1] for row in picture.rows] == [f"vgg16-hed, training images {rows}" for rows in (10, 20, 40)]
    assert "published" not in picture.caption


def test_a_networks_paddings_are_one_curve_beside_the_papers_two_points(tmp_path: Path) -> None:
    kinds = ("vgg16-hed", "vgg16-hed-padding-reflect", "vgg16-hed-padding-none", "pixels")
    run = opened(tmp_path, *(predicted(network=kind, strength=1 / rank) for rank, kind in enumerate(kinds, 1)))
    picture = draw_axis(run.results, run.archive, AXIS["network_paddings"])
    assert picture
    ours = [row[1] for row in picture.rows if row[-1] == "ours"]
    assert ours == [f"vgg16-hed, padding of the network {kind}" for kind in ("zeros", "none", "reflect")]
    assert [row[2] for row in picture.rows if row[-1] == "paper, Table 4"] == [".742", ".381"]
    assert "SPC of H from padding of the network zeros to reflect" in picture.answer


def test_error_maps_are_the_papers_equation_4_over_three_patterns(tmp_path: Path) -> None:
    cells = [
        predicted(target=target, network=network) for network, target in product(("pixels", "vgg16-hed"), ("H", "V", "G", "HS"))
    ]
    run = opened(tmp_path, *cells)
    averaged = average_errors(run.results, run.archive)
    assert averaged
    errors = averaged.errors
    assert averaged.patterns == ["H", "V", "G"]
    assert list(errors) == ["best constant", "pixels (no network)", "vgg16-hed"]
    mean = np.mean([partner.scores["error/held-out"] for partner in cells[4:7]], axis=0)
    np.testing.assert_allclose(errors["vgg16-hed"], mean, rtol=1e-6)
    constants = [constant_error(make_cell_target(partner.result.cell)) for partner in cells[:3]]
    np.testing.assert_allclose(errors["best constant"], np.mean(constants, axis=0))
    picture = draw_error_maps(run.results, run.archive)
    assert picture and picture.rows[2][1] == f"{mean.mean():.3f}".replace("0.", ".")


def test_rings_are_positions_at_one_distance_to_the_border() -> None:
    errors = np.random.default_rng(0).uniform(size=(7, 7))
    distances, means = error_by_distance(errors)
    for ring, mean in enumerate(means):
        inside = [errors[y, x] for y, x in np.ndindex(7, 7) if min(y, x, 6 - y, 6 - x) == ring]
        assert mean == pytest.approx(np.mean(inside))
    assert distances == pytest.approx((np.arange(4) + 0.5) / 7 * 100)


def test_a_run_that_kept_no_maps_says_so_and_draws_what_it_can(tmp_path: Path) -> None:
    run = opened(tmp_path, *(cell(constant(0.5), kernel=kernel) for kernel in (1, 3)))
    assert draw_error_maps(run.results, run.archive) is None
    assert draw_border(run.results, run.archive) is None
    names = {picture.name: picture.caption + picture.inline() for picture in run.pictures()}
    assert list(names) == ["table2", "kernels", "maps"]
    assert "its map was not kept" in names["maps"]
    with pytest.raises(UsageError, match="no cells for the figure 'errors'"):
        run.plot.errors()


def test_every_figure_is_a_method_that_gives_a_matplotlib_figure(tmp_path: Path) -> None:
    run = opened(tmp_path, *kernels("vgg16-hed"))
    before = dict(matplotlib.rcParams)
    for name in FIGURES:
        draw = getattr(run.plot, name)
        if name in ("table2", "kernels", "errors", "border", "maps"):
            assert isinstance(draw(), matplotlib.figure.Figure)
            assert draw()._repr_png_().startswith(b"\x89PNG")
        else:
            with pytest.raises(UsageError):
                draw()
    assert dict(matplotlib.rcParams) == before  # a notebook's own settings
    assert posenet_store.open_run is open_run
    assert len(run.where("kernel=3").results) == 2
    assert "| H | vgg16-hed |" in run.where("kernel=3").table2().markdown()
    with pytest.raises(UsageError, match="unknown kernel '5'"):
        run.where("kernel=5")
    with pytest.raises(UsageError, match="not a run"):
        open_run(tmp_path)
    with pytest.raises(UsageError, match="needs a run's folder"):
        open_run()


def test_report_writes_every_figure_as_png_and_svg(tmp_path: Path) -> None:
    run = write(tmp_path / "run", kernels("pixels"))
    result = cli("report", run, "--figures", tmp_path / "figures")
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {f"{name}.{form}" for name in ("table2", "kernels", "errors", "border", "maps") for form in ("png", "svg")}
    for path in (tmp_path / "figures").iterdir():
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert 500 < image.width < 1800  # readable at a printed page's width, 200 dots an inch
        else:
            assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_a_hostile_name_is_text_in_a_figure(tmp_path: Path) -> None:
    name = 'x"><img onerror=alert(1)> $\\frac{'
    run = opened(tmp_path, predicted(network=name), predicted(network=name, kernel=5))
    for picture in run.pictures():
        svg = picture.inline()
        assert "<img" not in svg
        assert ElementTree.fromstring(svg.replace("xlink:", "")) is not None


@pytest.mark.parametrize(("targets", "turned"), [(["H", "V"], 0), ([f"ramp:{angle}" for angle in range(0, 90, 10)], 60)])
def test_predicted_maps_stand_beside_their_labels_in_one_panel(tmp_path: Path, targets: list[str], turned: int) -> None:
    run = opened(tmp_path, *(predicted(network="vgg16-hed", target=target) for target in targets))
    picture = draw_predicted_maps(run.results, run.archive)
    assert picture
    assert "not kept" not in picture.caption
    (panel,) = picture.figure.axes
    assert [label.get_text().partition("\n")[0] for label in panel.get_xticklabels()] == targets
    assert {label.get_rotation() for label in panel.get_xticklabels()} == {turned}
    places = [image.get_extent() for image in panel.images]
    centres = {(round((left + right) / 2, 6), round((top + bottom) / 2, 6)) for left, right, bottom, top in places}
    assert centres == {(round(x, 6), round(y, 6)) for x in panel.get_xticks() for y in panel.get_yticks()}


def test_long_names_of_networks_leave_room_for_the_axes(tmp_path: Path) -> None:
    # matplotlib warns, which is an error here, where a layout leaves nothing of the axes
    tag = "vit_small_patch14_reg4_dinov2.lvd142m-positions-shuffled-224px"
    run = opened(tmp_path, *(predicted(network=f"timm:{number}{tag}") for number in range(8)))
    assert all(picture.save(tmp_path) for picture in run.pictures())


@pytest.mark.parametrize("moved", ['<use xlink:href="#c" x="5" y="5"/>', '<image transform="scale(1 -1)"/>'])
def test_what_is_moved_keeps_its_clip_outside(moved: str) -> None:
    """Browsers move a clip with the element that carries it: points and maps would be cut away."""
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="72pt" height="72pt">'
    svg = f'{head}<g id="a"><g clip-path="url(#c)">{moved}</g><g clip-path="url(#c)"><path d="M 0 0"/></g></g></svg>'
    text = inline_svg(svg.encode(), name="x", title="t", description="d", tips={}, ink="#222222", page_width=2.0)
    clipped = [node.tag.rpartition("}")[2] for node in ElementTree.fromstring(text).iter() if "clip-path" in node.attrib]
    assert clipped == ["g", "path"]
    assert 'width="50.0%"' in text


def test_an_inline_figure_has_ids_of_its_own_a_title_and_hover_texts(tmp_path: Path) -> None:
    run = opened(tmp_path, *kernels("vgg16-hed"))
    (first, second) = (draw_axis(run.results, run.archive, AXIS["kernels"]), draw_table2(run.results, run.archive))
    assert first and second
    ids = [{node.get("id") for node in ElementTree.fromstring(picture.inline()).iter()} - {None} for picture in (first, second)]
    assert not ids[0] & ids[1]
    titles = [node.text for node in ElementTree.fromstring(first.inline()).iter("{http://www.w3.org/2000/svg}title")]
    assert titles[0] == "Effect of the kernel size"
    assert set(titles[1:]) == set(first.tips.values())
    assert any("vgg16-hed, kernel size 7, H: SPC" in (title or "") for title in titles)


def test_the_published_numbers_are_those_of_the_tables() -> None:
    counts = {what: sum(len(pairs) for table in tables for pairs in table.numbers.values()) for what, tables in ALL.items()}
    assert counts == {
        "test image": 60 + 60 + 36, "layers of the head": 18, "kernel size": 18, "stage": 12, "padding of the head": 9,
        "padding of the network": 6,
    }  # fmt: skip
    assert STAGES.at("H", "VGG")["all"] == TABLES[1].at("H", "VGG")["natural"] == KERNELS.at("H", "VGG")[3]
    assert KERNELS.at("HS", "PosENet")[3] == (-0.001, 0.723)  # the paper contradicts itself
    assert PADDINGS.at("HS", "PosENet")[0] == (-0.001, 0.712)
    assert STAGES.at("V", "VGG") == {}
    assert KERNELS.at("H", None) == {}


def test_without_a_run_nothing_is_kept() -> None:
    assert ScoreArchive().array("0" * 16, "spc/held-out") is None


def test_a_run_shows_itself_in_notebooks_with_text_escaped(tmp_path: Path) -> None:
    run = open_run(write(tmp_path / "run", [predicted(network="vgg16-random0")], title="<i>title</i>"))
    assert repr(run).startswith("<Run '<i>title</i>'>")
    assert all(fact in repr(run) for fact in ("cells", "1", "vgg16-random0 (untrained)", "report-2020", "held-out"))
    assert len(run) == 1
    assert "<i>" not in run._repr_html_()
    assert "&lt;i&gt;title" in run._repr_html_()
    assert set(FIGURES) <= set(dir(run.plot))


def test_a_run_as_a_pandas_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "run", [predicted(seed=0), predicted(seed=1)])
    run = open_run("~/run")
    frame = run.to_pandas()
    assert frame["seed"].tolist() == [0, 1]
    assert {"id", "network", "target", "held-out:spc", "held-out:mae", "seconds"} <= set(frame.columns)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pip install 'posenet-store"):
        run.to_pandas()
