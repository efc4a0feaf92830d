from pathlib import Path

import pytest

from app.engine.cores import Cores, available_cores


def fake(root: Path, files: dict[str, str]) -> tuple[Path, Path]:
    """Write files below proc/ and cgroup/; returns the two roots."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "proc", root / "cgroup"


def cores(root: Path, files: dict[str, str], affinity: int = 8) -> Cores:
    proc_root, cgroup_root = fake(root, files)
    return available_cores(proc_root, cgroup_root, lambda: affinity)


def v1(group: str, quota_us: int, period_us: int = 100_000, mount: str = "cpu") -> dict[str, str]:
    folder = f"cgroup/{mount}{group}"
    return {
        f"{folder}/cpu.cfs_quota_us": f"{quota_us}\n",
        f"{folder}/cpu.cfs_period_us": f"{period_us}\n",
    }


def test_without_any_cgroup_affinity_decides(tmp_path: Path) -> None:
    assert cores(tmp_path, {}) == Cores(8, 8, None, "8 by CPU affinity")


def test_this_machine_has_at_least_one_core() -> None:
    found = available_cores()

    assert 1 <= found.count <= found.affinity


@pytest.mark.parametrize(
    ("quota", "count"), [("50000", 1), ("150000", 1), ("200000", 2), ("399999", 3)]
)
def test_a_quota_is_rounded_down_to_at_least_one(tmp_path: Path, quota: str, count: int) -> None:
    found = cores(tmp_path, {"cgroup/cpu.max": f"{quota} 100000\n"})

    assert found.count == count
    assert found.quota == int(quota) / 100_000
    assert found.reason == f"{count} by the cgroup's CPU quota of {int(quota) / 100_000:g}"


def test_a_quota_above_affinity_changes_nothing(tmp_path: Path) -> None:
    found = cores(tmp_path, {"cgroup/cpu.max": "400000 100000"}, affinity=2)

    assert found == Cores(2, 2, 4.0, "2 by CPU affinity")


def test_v2_takes_the_smallest_on_the_way_up(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/slice/pod/box\n",
        "cgroup/slice/cpu.max": "300000 100000\n",
        "cgroup/slice/pod/cpu.max": "200000 100000\n",
        "cgroup/slice/pod/box/cpu.max": "max 100000\n",
        "cgroup/slice/other/cpu.max": "100000 100000\n",
    }

    assert cores(tmp_path, files).quota == 2.0


def test_v2_beside_v1(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/a\n0::/me\n",
        "cgroup/unified/me/cpu.max": "300000 100000",
    }

    assert cores(tmp_path, files).quota == 3.0


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
def test_v1_takes_the_smallest_on_the_way_up(tmp_path: Path, mount: str) -> None:
    files = {
        "proc/self/cgroup": f"9:name=systemd:/x\n3:{mount}:/pod/box\n2:cpuset:/\n",
        **v1("", -1, mount=mount),
        **v1("/pod", 150_000, 50_000, mount),
        **v1("/pod/box", 400_000, mount=mount),
    }

    assert cores(tmp_path, files).quota == 3.0


def test_a_group_named_by_the_host_falls_back_to_the_mount(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "1:cpu:/docker/0123abcd\n", **v1("", 200_000)}

    assert cores(tmp_path, files).count == 2


def test_a_group_outside_the_mount_is_not_followed(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/../../elsewhere\n",
        "elsewhere/cpu.max": "100000 100000",
        "cgroup/cpu.max": "300000 100000",
    }

    assert cores(tmp_path, files).quota == 3.0


@pytest.mark.parametrize(
    "text", ["", "max 100000", "max", "-1 100000", "100000 0", "many 100000", "1e5 100000", "\xff"]
)
def test_odd_files_set_no_limit(tmp_path: Path, text: str) -> None:
    files = {"proc/self/cgroup": "nonsense\n::::\n0:cpu\n", "cgroup/cpu.max": text}

    assert cores(tmp_path, files).count == 8


def test_a_folder_in_place_of_a_file_sets_no_limit(tmp_path: Path) -> None:
    (tmp_path / "cgroup" / "cpu.max").mkdir(parents=True)

    assert cores(tmp_path, {}).count == 8


def test_an_affinity_of_none_is_one_core(tmp_path: Path) -> None:
    assert cores(tmp_path, {}, affinity=0).count == 1
