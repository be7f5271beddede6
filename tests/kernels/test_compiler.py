"""Compiling what ``kernels`` needs: once, whole, and a sentence where it cannot be."""

from __future__ import annotations

import copy
import ctypes
import errno
import os
import pickle
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from conftest import photo_like
from torch.nn.grad import conv2d_weight

from sruplift import engine
from sruplift.engine import Engine
from sruplift.errors import CompiledFolderError, CompilerError
from sruplift.fuse import fused
from sruplift.fuse.compiled import with_kernels
from sruplift.fuse.programs import has_programs, in_programs
from sruplift.kernels import Arithmetic, Kernels, load_kernels, loading
from sruplift.kernels import compiler as compiling
from sruplift.kernels.compiler import find_compiler, private_folder
from sruplift.kernels.convolution import channels_last
from sruplift.kernels.gradient import weight_gradient
from sruplift.kernels.library import STRUCTURES
from sruplift.weights import load_model


def build(sources: Path, folder: Path) -> Path:
    return compiling.build(sources, folder, lambda _: None)


def replace(library: Path, content: bytes) -> None:
    """Another file under its name: the old one is mapped into this process."""
    library.unlink()
    library.write_bytes(content)


def hurry(monkeypatch: pytest.MonkeyPatch, level: str = "-O0") -> None:
    """Compile in less time what then takes more."""
    flags = tuple(level if flag.startswith("-O") else flag for flag in compiling.FLAGS)
    assert level in flags
    monkeypatch.setattr(compiling, "FLAGS", flags)


SOURCE = '#include "code.h"\nint answer(void) { return ANSWER; }\n'


@pytest.fixture
def compiler() -> tuple[str, ...]:
    try:
        return find_compiler()
    except CompilerError as error:
        pytest.skip(str(error))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with C files."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "code.c").write_text(SOURCE)
    (folder / "code.h").write_text("#define ANSWER 42\n")
    return folder


def stand_in(folder: Path, script: str) -> str:
    """A compiler that is a Python script; its path."""
    path = folder / "strange-cc"
    path.write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.usefixtures("compiler")
def test_it_compiles_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "new" / "cache"
    made = build(source, folder)
    assert [path.name for path in folder.iterdir()] == [made.name]
    monkeypatch.setattr(compiling, "_compile", lambda *_: pytest.fail("it is there already"))
    assert build(source, folder) == made


@pytest.mark.usefixtures("compiler")
def test_a_folder_that_cannot_be_removed_yet_is_no_failure(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NFS a library in use goes on to lie there under another name when it is removed."""

    def busy(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(os, "rmdir", busy)
    made = build(source, tmp_path / "cache")
    assert ctypes.CDLL(str(made)) is not None


@pytest.mark.usefixtures("compiler")
def test_another_source_or_processor_is_another_file(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(source, tmp_path)
    monkeypatch.setattr(compiling, "processor", lambda: "another one")
    second = build(source, tmp_path)
    (source / "code.h").write_text("#define ANSWER 43\n")
    third = build(source, tmp_path)
    assert len({first, second, third}) == 3


def test_without_a_compiler_there_is_a_sentence(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilerError, match=r"there is no C compiler .*cc, gcc, clang"):
        build(source, tmp_path)
    monkeypatch.setenv("CC", "mycc -m32")
    with pytest.raises(CompilerError, match=r"no C compiler .*\(mycc\)"):
        build(source, tmp_path)


def test_the_compiler_that_is_named_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stand_in(tmp_path, "sys.exit(1)")
    monkeypatch.setenv("CC", f"{path} --target=this")
    assert find_compiler() == (path, "--target=this")


@pytest.mark.parametrize("script", ["sys.exit('code.c:1: error: no such thing')", "sys.exit(0)"])
def test_a_compiler_that_fails_or_makes_nothing_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setenv("CC", stand_in(tmp_path, script))
    folder = tmp_path / "cache"
    with pytest.raises(CompilerError, match="cannot compile the kernels"):
        build(source, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("sys.exit('error: unsupported option -fopenmp')", "cannot compile .*-fopenmp"),
        ("open(sys.argv[-1], 'w').write('x'), sys.exit(0)", "cannot be loaded"),
    ],
)
def test_without_openmp_there_are_none(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, sentence: str
) -> None:
    """With one thread PyTorch's would be faster with several. Some find out when it is loaded."""
    monkeypatch.setenv("CC", stand_in(tmp_path, script))
    with pytest.raises(CompilerError, match=sentence):
        build(source, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_compiler_that_never_ends_is_a_sentence(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "PATIENCE", 0.2)
    monkeypatch.setenv("CC", stand_in(tmp_path, "import time; time.sleep(60)"))
    with pytest.raises(CompilerError, match=r"takes longer than 0\.2 seconds"):
        build(source, tmp_path / "cache")
    # Nor does what it has started go on.
    monkeypatch.setattr(compiling, "PATIENCE", 2)
    script = "import os, time; os.fork(); open(f'{os.getpid()}.pid', 'w'); time.sleep(60)"
    monkeypatch.setenv("CC", stand_in(tmp_path, script))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CompilerError, match="takes longer"):
        build(source, tmp_path / "cache")
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(pids) == 2
    for _ in range(100):
        running = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        if not running:
            break
        time.sleep(0.05)
    assert not running


def test_a_compiler_with_an_open_quotation_is_a_sentence(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "gcc -DX='a")
    with pytest.raises(CompilerError, match="CC names no compiler"):
        build(source, tmp_path)


@pytest.mark.usefixtures("compiler")
def test_code_that_others_may_have_written_is_not_loaded(source: Path, tmp_path: Path) -> None:
    made = build(source, tmp_path)
    assert made.stat().st_mode & 0o077 == 0
    replace(made, b"of somebody else")
    made.chmod(0o666)
    assert build(source, tmp_path) == made
    assert made.read_bytes() != b"of somebody else"


@pytest.mark.usefixtures("compiler")
def test_a_folder_that_cannot_be_entered_is_a_sentence(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(source, tmp_path)

    def read_bytes(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(CompilerError, match="cannot be kept"):
        build(source, tmp_path)


@pytest.mark.usefixtures("compiler")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_a_sentence(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(CompilerError, match="cannot be kept"):
        build(source, folder)


@pytest.mark.usefixtures("compiler")
def test_a_folder_that_is_a_file_is_a_sentence(source: Path) -> None:
    with pytest.raises(CompilerError, match="cannot be kept"):
        build(source, source / "code.c")


class NoExec:
    f_flag = os.ST_NOEXEC


@pytest.mark.usefixtures("compiler")
def test_a_folder_whose_code_may_not_be_run_is_refused_before_compiling(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "code.h").write_text("#error")
    monkeypatch.setattr(os, "statvfs", lambda _: NoExec)
    with pytest.raises(CompiledFolderError, match="it is mounted noexec"):
        build(source, tmp_path / "cache")
    assert not any((tmp_path / "cache").iterdir())


@pytest.mark.usefixtures("compiler")
def test_a_folder_whose_files_are_anybodys_is_refused_before_compiling(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some file systems show all that is in them."""
    (source / "code.h").write_text("#error")
    chmod = Path.chmod
    monkeypatch.setattr(Path, "chmod", lambda path, _: chmod(path, 0o777))
    with pytest.raises(CompiledFolderError, match="not this user's alone to write"):
        build(source, tmp_path / "cache")
    assert not any((tmp_path / "cache").iterdir())


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_private_folder_is_nobody_elses(temporary: Path) -> None:
    folder = private_folder()
    assert folder.parent == temporary
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder() == folder
    folder.chmod(0o750)
    with pytest.raises(CompiledFolderError, match="is not this user's alone"):
        private_folder()
    folder.chmod(0o700)
    folder.rename(temporary / "other")
    folder.symlink_to(temporary / "other")
    with pytest.raises(CompiledFolderError, match="is not this user's alone"):
        private_folder()
    folder.unlink()
    (temporary / "other").rmdir()
    temporary.rmdir()
    with pytest.raises(CompiledFolderError, match="cannot be made"):
        private_folder()


@pytest.mark.usefixtures("compiler")
def test_without_a_cache_kernels_are_in_the_private_folder(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(engine, "_load_kernels", engine._load_kernels.__wrapped__)
    assert isinstance(engine.find_kernels("on"), Kernels)
    (folder,) = temporary.iterdir()
    (made,) = folder.iterdir()
    assert made.suffix == ".so"
    folder.chmod(0o755)
    assert engine.find_kernels("auto") is None
    with pytest.raises(CompilerError, match=f"cannot be kept in {tmp_path}/file"):
        engine.find_kernels("on")


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("name", "right", "other"),
    [
        ("convolution.c", "DEPTHWISE(depthwise5, 5)", "DEPTHWISE(depthwise5, 4)"),
        ("convolution.c", "column >= c->width", "column > c->width"),
        ("points.h", "2.5f", "2.4f"),
        ("convolution.c", "EMIT(emit_gated, 1, 1, 1", "EMIT(emit_gated, 1, 0, 1"),
        ("convolution.c", "c->sigmoid == 1 ? 2 : c->sigmoid ? 32 : 0", "c->sigmoid ? 2 : 0"),
        ("winograd.h", "(none ? 0 : row) * m->row", "(none ? 0 : 0) * m->row"),
        ("gradient.c", "PRODUCT(a, 1, a_row", "PRODUCT(a, 1, 1"),
        ("gradient.c", "load(sum) + more", "more"),
        ("gradient.c", "store(o, e[0]);", "store(o, e[1]);"),
        ("gradient.c", "{0, 0, 1},", "{0, 1, 1},"),
        ("lanes.h", "INTO(into81, product81", "INTO(into81, product41"),
        ("filter_half.h", "b[o][v] -= m[o][v]", "b[o][v] += m[o][v]"),
        ("points.h", "0.5f * A * q", "A * q"),
        ("filter_single.h", "column + 4 * v * LANES", "column + v * LANES"),
        ("cells.h", "if (add) {", "if (add && mul) {"),
        ("cells.h", "float *y = f->image + (first", "float *y = f->image + (0 * first"),
        ("program.h", "b->newest[map] - row + 1", "b->newest[map] - row"),
        ("patches.h", "inverse(load(", "0.99f * inverse(load("),
        ("cells.h", "0.254829592f", "0.27f"),
        ("filter_single.h", "+= s.planes * s.plane)", "+= s.plane)"),
    ],
)
def test_code_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, right: str, other: str
) -> None:
    hurry(monkeypatch)
    for path in loading.SOURCES.glob("*.[ch]"):
        (tmp_path / path.name).write_text(path.read_text())
    wrong = tmp_path / name
    text = wrong.read_text()
    assert text.count(right) > 0
    wrong.write_text(text.replace(right, other))
    monkeypatch.setattr(loading, "SOURCES", tmp_path)
    with pytest.raises(CompilerError, match="computes something else"):
        load_kernels(tmp_path / "cache")


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_registers_of_every_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: tuple[str, ...], lanes: int
) -> None:
    """Those of other processors than this one; slower here, but the same code."""
    hurry(monkeypatch, "-O1")
    monkeypatch.setenv("CC", " ".join([*compiler, f"-DLANES={lanes}"]))
    kernels = load_kernels(tmp_path)
    assert kernels.lanes == lanes
    image = photo_like(37, 22)[None]
    with torch.inference_mode():
        for name in ("pan", "srram"):
            net = load_model(name, 4)
            quick = fused(net)
            if has_programs(quick):
                quick = in_programs(quick, Arithmetic(kernels, half=False))
            else:
                quick = with_kernels(quick, kernels)
            torch.testing.assert_close(quick(image), net(image), rtol=0, atol=1e-5)
        x, weight, y = (torch.randn(*s) for s in ((2, 21, 9, 10), (19, 21, 3, 3), (2, 19, 9, 10)))
        expected = conv2d_weight(x, weight.shape, y, padding=1)
        made = weight_gradient(kernels, channels_last(x), channels_last(y), weight, 1)
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("damage", ["empty", "text", "short", "zeros", "one bit"])
def test_a_damaged_library_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    hurry(monkeypatch)
    made = build(loading.SOURCES, tmp_path)
    whole = made.read_bytes()
    middle = len(whole) // 2
    contents = {
        "empty": b"",
        "text": b"nothing that can be loaded",
        "short": whole[:middle],
        "zeros": whole[:middle] + bytes(len(whole) - middle),
        "one bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
    }
    replace(made, contents[damage])
    made.chmod(0o700)
    assert load_kernels(tmp_path).lanes in (4, 8, 16)
    assert len(made.read_bytes()) == len(whole)


@pytest.mark.usefixtures("compiler")
def test_what_another_process_made_meanwhile_stays(source: Path, tmp_path: Path) -> None:
    """It may be running it."""
    folder, inodes = tmp_path / "cache", []

    def meanwhile(_: Path) -> None:
        inodes.append(build(source, folder).stat().st_ino)

    made = compiling.build(source, folder, meanwhile)
    assert [made.stat().st_ino] == inodes
    assert list(folder.iterdir()) == [made]


@pytest.mark.usefixtures("compiler")
def test_where_there_are_no_links(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    made = build(source, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == [made]


@pytest.mark.usefixtures("compiler")
def test_sources_that_change_meanwhile_are_not_compiled_under_the_old_name(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_, old = compiling._compile, build(source, tmp_path / "old")

    def late(compiler: tuple[str, ...], flags: tuple[str, ...], *places: Path) -> None:
        (source / "code.h").write_text("#define ANSWER 43\n")
        compile_(compiler, flags, *places)

    monkeypatch.setattr(compiling, "_compile", late)
    made = build(source, tmp_path / "new")
    assert made.name == old.name
    assert ctypes.CDLL(str(made)).answer() == 42


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("made_of", "said"), [("answer", "undefined symbol"), ("sizes", "another version")]
)
def test_the_library_of_another_version_is_not_called(
    tmp_path: Path, made_of: str, said: str
) -> None:
    """Networks that were pickled know its path alone."""
    sizes = "".join(f"int {name}(void) {{ return 8; }}\n" for name in STRUCTURES)
    (tmp_path / "code.c").write_text(sizes if made_of == "sizes" else "int answer = 42;\n")
    with pytest.raises(CompilerError, match=said):
        _ = Kernels(build(tmp_path, tmp_path / "cache")).lanes


@pytest.mark.usefixtures("compiler")
def test_networks_with_them_can_be_copied_and_sent(kernels: Kernels) -> None:
    net = with_kernels(fused(load_model("srram", 2)), kernels)
    image = photo_like(12, 10)[None]
    with torch.inference_mode():
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(other(image), net(image))


def test_auto_goes_on_without_and_on_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "absent"))
    engine._load_kernels.cache_clear()
    try:
        net, lr = load_model("pan", 2), photo_like(9, 8)[None]
        plain = Engine(net, 2, "cpu", "fp32", compile_mode="auto")
        assert not plain.compiled
        monkeypatch.setattr(compiling, "find_compiler", lambda: pytest.fail("it was asked already"))
        assert torch.equal(plain.run(lr), Engine(net, 2, "cpu", "fp32").run(lr))
        with pytest.raises(CompilerError, match="no C compiler"):
            Engine(net, 2, "cpu", "fp32", compile_mode="on")
    finally:
        engine._load_kernels.cache_clear()


@pytest.mark.usefixtures("compiler")
def test_the_engine_takes_them_in_float32_unless_it_is_off() -> None:
    net = load_model("pan", 2)
    engines = {
        mode: Engine(net, 2, "cpu", "fp32", compile_mode=mode) for mode in ("auto", "on", "off")
    }
    assert {mode: each.compiled for mode, each in engines.items()} == {
        "auto": True,
        "on": True,
        "off": False,
    }
    lr = photo_like(21, 30)[None]
    for mode in ("auto", "on"):
        torch.testing.assert_close(engines[mode].run(lr), engines["off"].run(lr), rtol=0, atol=1e-5)
    # In half precision SRRAM's are PyTorch's everywhere.
    assert not Engine(load_model("srram", 2), 2, "cpu", "bf16", compile_mode="auto").compiled
    # A network that is told where a tile lies has them, too: there is nothing to compile anew.
    assert Engine(load_model("maffsrn", 2), 2, "cpu", "fp32", compile_mode="on").compiled
