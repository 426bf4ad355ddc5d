"""What a compiled program must be, and that each defect is found and named; ELF files as hostile input."""

import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine import (
    BASE,
    GO,
    HOST,
    REAL,
    digests,
    given,
    hello,
    inputs,
    make_context,
    output,
    real_checkout,
    run_actions,
    shared_store,
    small,
    small_checkout,
    write_checkout,
)

from pipeline.build import check as module
from pipeline.build.check import check_action, parse_build_info
from pipeline.build.elf import read_elf
from pipeline.definitions import Smoke
from pipeline.errors import BuildError, SourceError
from pipeline.inputs import Inputs
from pipeline.plan import plan
from pipeline.release import release
from pipeline.units import Unit

MACHINES = {"amd64": 62, "arm64": 183, "riscv64": 243}


def hello_unit(**changes: Any) -> Unit:
    return replace(small().units[0], **changes)


def find(data: bytes, unit: Unit | None = None, arch: str = HOST, known: Inputs | None = None) -> str:
    """What check/ says about `data` as the program of `unit`; empty if nothing."""
    unit = unit or hello_unit()
    name = next(iter(unit.build.binaries))
    values = small().release.values
    actions = [given(f"build/{unit.name}/{arch}", {name: data}), check_action(unit, arch, values, known or inputs())]
    result = run_actions(shared_store(), actions)
    if not result.failures:
        return ""
    (failure,) = result.failures
    assert failure.name == f"check/{unit.name}/{arch}"
    assert isinstance(failure.error, BuildError | SourceError)
    return failure.error.reason


# --- reading


def sections(data: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    (start,) = struct.unpack_from("<Q", data, 40)
    for index in range(struct.unpack_from("<H", data, 60)[0]):
        yield start + 64 * index, struct.unpack_from("<IIQQQQIIQQ", data, start + 64 * index)


def programs(data: bytes) -> Iterator[int]:
    (start,) = struct.unpack_from("<Q", data, 32)
    for index in range(struct.unpack_from("<H", data, 56)[0]):
        yield start + 56 * index


@pytest.mark.parametrize("arch", MACHINES)
def test_a_go_program_is_read(arch: str) -> None:
    elf = read_elf(hello(arch), "hello")
    assert (elf.elf_class, elf.little_endian, elf.machine) == ("ELF64", True, MACHINES[arch])
    assert elf.static
    assert not elf.symbols
    assert ".text" in elf.sections
    assert ".go.buildinfo" in elf.sections


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"#!/bin/sh\n" * 20, b"\x7fELF" + bytes(59), b"MZ" + bytes(100)])
def test_what_is_no_elf_file_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(SourceError, match="hello is not an ELF file"):
        read_elf(data, "hello")


def test_every_truncation_of_the_headers_is_refused() -> None:
    data = hello("amd64")
    for size in [*range(64, 120), 200, 400]:
        try:
            elf = read_elf(data[:size], "cut")
        except SourceError:
            continue
        raise AssertionError(f"a file of {size} bytes passed as {elf}")


def test_a_program_whose_content_was_cut_off_is_refused() -> None:
    data = hello("amd64")
    for size in (1000, 100_000, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(SourceError, match="cut: malformed"):
            read_elf(data[:size], "cut")


def mutate(data: bytearray, luck: random.Random) -> None:
    """Damage the headers: bytes, fields with extreme values, or the tables that they point to."""
    extremes = (0, 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, len(data), len(data) - 1)
    places = [
        (32, "<Q"),
        (40, "<Q"),
        (54, "<H"),
        (56, "<H"),
        (58, "<H"),
        (60, "<H"),
        (62, "<H"),
        (16, "<H"),
        (18, "<H"),
    ]
    tables = [at + f for at in programs(bytes(data)) for f in (0, 8, 32, 40)]
    tables += [at + f for at, _ in sections(bytes(data)) for f in (0, 4, 24, 32)]
    for _ in range(luck.randint(1, 3)):
        kind = luck.randrange(3)
        if kind == 0:
            data[luck.randrange(4, 64)] = luck.randrange(256)
        elif kind == 1:
            at, form = luck.choice(places)
            struct.pack_into(form, data, at, luck.choice(extremes) % 256 ** struct.calcsize(form))
        else:
            at = luck.choice(tables)
            if at + 8 <= len(data):
                struct.pack_into("<Q", data, at, luck.choice(extremes))


def test_damaged_headers_end_in_a_source_error_or_a_verdict() -> None:
    original = hello("amd64")
    for seed in range(600):
        data = bytearray(original)
        mutate(data, random.Random(seed))  # noqa: S311 - reproducible on purpose
        try:
            read_elf(bytes(data), "damaged")
        except SourceError as error:
            assert "damaged" in error.reason
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error


def test_headers_that_hide_what_they_describe_are_refused() -> None:
    """A loader and this reader must not see different tables."""
    original = hello("amd64")
    for at, value in ((54, 0), (54, 55), (58, 0), (58, 63), (60, 0)):
        data = bytearray(original)
        struct.pack_into("<H", data, at, value)
        with pytest.raises(SourceError, match="malformed"):
            read_elf(bytes(data), "hello")


def test_a_file_cannot_cost_memory_by_naming_its_sections_after_all_of_itself() -> None:
    import tracemalloc

    text, many = b"y" * (1 << 20) + b"\0", 3000
    header = struct.pack("<IIQQQQIIQQ", 0, 1, 0, 0, 64, len(text), 0, 0, 1, 0)
    crafted = bytearray(hello("amd64")[:64] + text + header * many)
    struct.pack_into("<QQ", crafted, 32, 64, 64 + len(text))
    struct.pack_into("<HHHHH", crafted, 54, 56, 0, 64, many, 0)
    tracemalloc.start()
    try:
        with pytest.raises(SourceError):
            read_elf(bytes(crafted), "bomb")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


# --- judging


@pytest.mark.parametrize("arch", MACHINES)
def test_a_good_program_passes(arch: str) -> None:
    assert find(hello(arch), arch=arch) == ""


def test_another_architecture_is_found() -> None:
    other = "arm64" if HOST != "arm64" else "amd64"
    reason = find(hello(other))
    assert f"expected a little-endian ELF64 file for machine {MACHINES[HOST]} (linux/{HOST})" in reason
    assert f"machine {MACHINES[other]}" in reason


def test_another_class_is_found() -> None:
    data = bytearray(hello(HOST))
    data[4] = 1
    assert "found ELF32" in find(bytes(data))
    data[4:6] = b"\x02\x02"
    assert "expected a little-endian ELF64 file" in find(bytes(data))


def test_a_script_is_no_program() -> None:
    assert "hello is not an ELF file" in find(b"#!/bin/sh\necho hello v1.0.0+rfor1\n" + b"#" * 64)


def test_an_empty_file_is_no_program() -> None:
    assert "hello is not an ELF file" in find(b"")


def test_a_dynamic_loader_is_found() -> None:
    data = bytearray(hello(HOST))
    for at in programs(bytes(data)):
        if struct.unpack_from("<I", data, at)[0] not in (1, 6):
            struct.pack_into("<I", data, at, 3)
            break
    assert "expected a static program; it asks for a dynamic loader or library" in find(bytes(data))


def test_a_symbol_table_is_found() -> None:
    data = bytearray(hello(HOST))
    at, _ = list(sections(bytes(data)))[-1]
    struct.pack_into("<I", data, at + 4, 2)
    assert "expected a stripped program; it has a symbol table" in find(bytes(data))


@pytest.mark.parametrize("name", [b".note.gnu.build-id", b".note.go.buildid"])
def test_a_build_id_is_found(name: bytes) -> None:
    data = bytearray(hello(HOST))
    last, _ = list(sections(bytes(data)))[-1]
    (index,) = struct.unpack_from("<H", data, 62)
    _, table = list(sections(bytes(data)))[index]
    # The table of names moves to the end of the file with one more name.
    names = bytes(data[table[4] : table[4] + table[5]]) + name + b"\0"
    at, _ = list(sections(bytes(data)))[index]
    struct.pack_into("<QQ", data, at + 24, len(data), len(names))
    struct.pack_into("<I", data, last, table[5])
    assert f"has a build id ({name.decode()})" in find(bytes(data) + names)


@pytest.mark.parametrize("leak", ["/rfo-in/src/main.go", "/build/go-build123/b001"])
def test_a_path_of_the_sandbox_is_found(leak: str) -> None:
    data = hello(HOST)
    reason = find(data + leak.encode())
    assert f"holds the build path {leak[: len('/rfo-in/')]!r}" in reason or "'/build/go-build'" in reason
    assert f"at offset {len(data)}" in reason


def test_a_path_of_the_store_is_found() -> None:
    assert "holds the build path" in find(hello(HOST) + f"{shared_store().root}/gomod/x".encode())


def test_another_go_version_is_found() -> None:
    last = GO[:-1] + ("3" if GO[-1] != "3" else "4")
    data = hello(HOST).replace(f"go{GO}".encode(), f"go{last}".encode())
    assert f"hello: built with go{last}; the release says go{GO}" in find(data)


def test_missing_build_information_is_found() -> None:
    data = hello(HOST).replace(b"\xff Go buildinf:", b"\xff No buildinf:")
    reason = find(data)
    assert "go version -m failed" in reason or "no build information in hello" in reason


def test_a_wrong_stamp_is_found() -> None:
    data = hello(HOST).replace(b"v1.0.0+rfor1", b"v1.0.0+rfor2")
    assert "expected it to print 'hello v1.0.0+rfor1'; found 'hello v1.0.0+rfor2'" in find(data)


def test_a_failing_program_is_found() -> None:
    unit = hello_unit(smoke={"hello": Smoke(args=("fail",), prints="hello")})
    reason = find(hello(HOST), unit)
    assert "hello fail: expected status 0, found 3" in reason


def test_an_expected_failure_is_none() -> None:
    unit = hello_unit(smoke={"hello": Smoke(args=("fail",), prints="", exit=3)})
    assert "expected status" not in find(hello(HOST), unit)


def test_a_program_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMOKE_SECONDS", 2)
    unit = hello_unit(smoke={"hello": Smoke(args=("hang",), prints="hello")})
    assert "hello: still running after 2 s" in find(hello(HOST), unit)


def test_every_finding_is_told_at_once() -> None:
    data = bytearray(hello(HOST).replace(b"v1.0.0+rfor1", b"v1.0.0+rfor2") + b"/rfo-in/x")
    at, _ = list(sections(bytes(data)))[-1]
    struct.pack_into("<I", data, at + 4, 2)
    reason = find(bytes(data))
    assert "3 findings" in reason


def test_a_c_program_that_is_linked_dynamically_is_found(tmp_path: Path) -> None:
    """By the real compiler, and with its own messages for each that is left out."""
    code = '#include <stdio.h>\nint main(void) { puts("hi"); return 0; }\n'
    definition = {
        "name": "hi", "license": "Apache-2.0", "source": {"tree": "components/hi/src"},
        "build": [{"binaries": {"hi": "hi.c"}, "compiler": "c", "flags": ["-O1"]}],
        "smoke": {"hi": {"args": [], "prints": "hi"}},
    }  # fmt: skip
    checkout = write_checkout(tmp_path / "c", {"hi": definition}, {"components/hi/src/hi.c": code}, {"hi": {}})
    context = make_context(checkout, components=("hi",))
    with pytest.raises(BuildError, match="asks for a dynamic loader") as caught:
        release(context)
    assert str(caught.value).count("expected a static program") == 3


@pytest.fixture(scope="module")
def flannel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Unit, Inputs, bytes]:
    checkout = real_checkout(tmp_path_factory.mktemp("real"))
    context = make_context(checkout, version=REAL, base=BASE, components=("cni-plugin-flannel",), arches=(HOST,))
    release(context)
    made = output(digests(context)[f"build/cni-plugin-flannel/{HOST}:flannel"])
    assert plan(context.release, context.units, context.inputs, packs=None).order
    return context.units[0], context.inputs[HOST], made


def test_a_dependency_that_the_lock_does_not_name_is_found(flannel: tuple[Unit, Inputs, bytes]) -> None:
    unit, known, data = flannel
    assert find(data, unit, known=known) == ""
    lost = next(m for m in known.locked.lock.modules_of(unit.name) if m.path == "github.com/containernetworking/cni")
    lock = replace(known.locked.lock, modules={m: u for m, u in known.locked.lock.modules.items() if m != lost})
    reason = find(data, unit, known=replace(known, locked=replace(known.locked, lock=lock)))
    assert f"flannel: holds {lost.path} {lost.version} {lost.sum}; the lock says nothing of it" in reason


def test_a_dependency_with_another_sum_is_found(flannel: tuple[Unit, Inputs, bytes]) -> None:
    unit, known, data = flannel
    lost = next(m for m in known.locked.lock.modules_of(unit.name) if m.path == "github.com/containernetworking/cni")
    other = data.replace(lost.sum.encode(), b"h1:" + b"A" * 43 + b"=")
    assert f"the lock says {lost.sum}" in find(other, unit, known=known)


BUILD_INFO = """/rfo-in/bin/one: go1.20.14
\tpath\texample.org/one
\tmod\texample.org/one\t(devel)\t
\tdep\texample.org/a\tv1.0.0\th1:aaa=
\tdep\texample.org/b\tv2.0.0
\t=>\texample.org/c\tv3.0.0\th1:ccc=
\tdep\texample.org/d\tv4.0.0
\t=>\t./local\t(devel)\t
\tbuild\t-ldflags="-X a=b: go1.1"
/rfo-in/bin/two: go1.26.8
\tpath\texample.org/two
/rfo-in/bin/three: not executable file
"""


def test_build_information_is_read_by_file() -> None:
    found = parse_build_info(BUILD_INFO)
    assert set(found) == {"one", "two"}
    version, modules = found["one"]
    assert version == "go1.20.14"
    assert modules[:2] == [("example.org/a", "v1.0.0", "h1:aaa="), ("example.org/c", "v3.0.0", "h1:ccc=")]
    assert modules[2][0] == "./local"
    assert modules[2][2] == ""
    assert found["two"] == ("go1.26.8", [])


@pytest.mark.parametrize("form", [b".debug_info", b".zdebug_line"])
def test_debugging_information_is_found(form: bytes) -> None:
    data = bytearray(hello(HOST))
    (index,) = struct.unpack_from("<H", data, 62)
    entries = list(sections(bytes(data)))
    at, table = entries[index]
    names = bytes(data[table[4] : table[4] + table[5]]) + form + b"\0"
    struct.pack_into("<QQ", data, at + 24, len(data), len(names))
    struct.pack_into("<I", data, entries[1][0], table[5])
    assert read_elf(bytes(data) + names, "hello").symbols


def test_a_store_or_checkout_at_a_common_path_condemns_no_program(tmp_path: Path) -> None:
    known = replace(inputs(), store=shared_store())
    data = hello(HOST) + str(shared_store().root).encode() + b" is no leak"
    assert find(data, known=known) == ""


def test_what_a_program_writes_is_no_output(tmp_path: Path) -> None:
    main = """package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Println("hello", os.WriteFile("/out/extra", nil, 0o644), os.WriteFile("/build/x", nil, 0o644))
}
"""
    component = {"smoke": {"hello": {"args": [], "prints": "hello <nil> <nil>"}}}
    checkout = small_checkout(tmp_path / "c", main=main, component=component)
    context = make_context(checkout, components=("hello",), arches=(HOST,))
    release(context)
    assert set(digests(context)) == {f"build/hello/{HOST}:hello", f"check/hello/{HOST}:report.json"}
