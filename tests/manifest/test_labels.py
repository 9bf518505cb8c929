import csv
import io
import json
import multiprocessing
import os
import unicodedata
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from baal_ray import storage
from baal_ray.errors import (
    AlreadyAcquiredError,
    LabelError,
    ManifestError,
    StorageError,
    UnfinishedRoundError,
)
from baal_ray.manifest import Manifest, labels
from baal_ray.manifest.labels import (
    LabelImport,
    export_labels,
    import_labels,
    reject_images,
    release_images,
)
from baal_ray.selection import top_k
from baal_ray.storage.parquet import open_parquet, publish_table
from baal_ray.workspace.table_schemas import SCORES

CLASSES = ["cat", "dog", "3"]
EXTENSIONS = [".csv", ".parquet", ".jsonl", ".ndjson"]


@pytest.fixture
def manifest(tmp_path):
    manifest = Manifest(str(tmp_path / "manifest"))
    ids = ["a", "b", "c", "007", 'say "hi",\nthen go', "日本/🦊.jpg"]
    score = pa.array([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], pa.float32())
    manifest.acquire(pa.table({"id": ids, "score": score}), "2026-11-22")
    return manifest


@pytest.fixture
def path(tmp_path):
    """Return a function that writes labels: text or bytes as they are, a table as Parquet."""

    def write(content, name="labels.csv"):
        file = tmp_path / name
        if isinstance(content, pa.Table):
            pq.write_table(content, file)
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(file)

    return write


def labels_of(manifest):
    table = manifest.labelled()
    return dict(zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True))


def faults_of(manifest, path, **options):
    version = manifest.version
    with pytest.raises(LabelError) as caught:
        import_labels(manifest, path, **{"classes": CLASSES} | options)
    assert manifest.version == version
    return caught.value.faults


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_an_exported_file_with_its_labels_filled_in_comes_straight_back(
    manifest, tmp_path, extension
):
    path = str(tmp_path / f"todo{extension}")
    assert export_labels(manifest, path) == 6
    ids = manifest.rows()["id"].to_pylist()
    answers = dict.fromkeys(ids[:-1], "cat")
    fill_in(path, answers)
    done = import_labels(manifest, path, classes=CLASSES, labelled_by="ann")
    assert done == LabelImport(imported=5, unchanged=0, skipped=0, unanswered=1)
    assert labels_of(manifest) == answers
    assert set(manifest.labelled()["labelled_by"].to_pylist()) == {"ann"}
    again = import_labels(manifest, path, classes=CLASSES)
    assert again == LabelImport(imported=0, unchanged=5, skipped=0, unanswered=1)
    assert export_labels(manifest, path) == 1


def fill_in(path, answers):
    """Fill in labels as an annotator's own script would, without any of our code."""
    if path.endswith(".parquet"):
        table = pq.read_table(path)
        filled = pa.array([answers.get(id) for id in table["id"].to_pylist()], pa.string())
        index = table.column_names.index("label")
        pq.write_table(table.set_column(index, "label", filled), path)
    elif path.endswith(".csv"):
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        out = io.StringIO()
        writer = csv.DictWriter(out, rows[0].keys())
        writer.writeheader()
        plain = {id: answers[id] for id in answers} | {f"'{id}": answers[id] for id in answers}
        writer.writerows(row | {"label": plain.get(row["id"], "")} for row in rows)
        with open(path, "w", newline="", encoding="utf-8") as file:
            file.write(out.getvalue())
    else:
        with open(path, encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(
                json.dumps(row | {"label": answers.get(row["id"])}) + "\n" for row in rows
            )


def test_exported_rows_come_oldest_round_first_and_most_informative_first(manifest, tmp_path):
    manifest.acquire(pa.table({"id": ["0"]}), "2026-11-21")
    manifest.add_labelled(pa.table({"id": ["s"], "label": ["cat"]}), "0 seeds", labelled_by="x")
    path = str(tmp_path / "all.jsonl")
    assert export_labels(manifest, path, status=None) == 8
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert [row["id"] for row in rows][:3] == ["a", "b", "c"]
    assert [row["id"] for row in rows][-2:] == ["0", "s"]
    assert list(rows[0]) == list(labels._EXPORTED)
    assert export_labels(manifest, path, round_id="2026-11-21") == 1
    assert export_labels(manifest, path, status="labelled") == 1


def test_an_export_of_nothing_is_a_file_with_its_columns(manifest, tmp_path):
    path = str(tmp_path / "none.csv")
    assert export_labels(manifest, path, round_id="no such round") == 0
    assert import_labels(manifest, path, classes=CLASSES) == LabelImport(0, 0, 0, 0)


def test_csv_as_spreadsheets_write_it(manifest, path):
    text = '\ufeffid,label,note\r\n007,cat,"two\r\nlines"\r\n\r\na,3,\r\n,,\r\nb,,\r\n'
    done = import_labels(manifest, path(text), classes=CLASSES)
    assert done == LabelImport(imported=2, unchanged=0, skipped=0, unanswered=1)
    assert labels_of(manifest) == {"007": "cat", "a": "3"}


def test_parquet_may_have_integers_and_categories(manifest, path):
    table = pa.table({"id": pa.array(["a", "b"]).dictionary_encode(), "label": [3, None]})
    assert import_labels(manifest, path(table, "l.parquet"), classes=CLASSES).imported == 1
    table = pa.table({"id": [8], "label": pa.array(["cat"]).dictionary_encode()})
    faults = faults_of(manifest, path(table, "m.parquet"))
    assert faults == ["row 1: id '8' is not in the manifest"]
    assert labels_of(manifest) == {"a": "3"}


@pytest.mark.parametrize("skip_unknown", [False, True])
@pytest.mark.parametrize("name", ["filled.csv", "filled.parquet", "filled.jsonl"])
def test_ids_that_lost_their_zeros_in_pandas_are_never_skipped(
    name, skip_unknown, manifest, tmp_path
):
    export_labels(manifest, str(tmp_path / "to-do.csv"))
    rows = pd.read_csv(tmp_path / "to-do.csv").query("id == '007'")
    rows = rows.assign(id=pd.to_numeric(rows["id"]), label="cat")
    write = {
        "filled.csv": lambda to: rows.to_csv(to, index=False),
        "filled.parquet": rows.to_parquet,
        "filled.jsonl": lambda to: rows.to_json(to, orient="records", lines=True),
    }
    write[name](tmp_path / name)
    with pytest.raises(LabelError) as caught:
        import_labels(manifest, str(tmp_path / name), classes=CLASSES, skip_unknown=skip_unknown)
    (fault,) = caught.value.faults
    assert "id '7' is not in the manifest, but '007' is: its zeros were lost. Read" in fault
    assert labels_of(manifest) == {}


def test_the_files_own_column_says_who_labelled_unless_told(manifest, path):
    file = path("id,label,labelled_by\na,cat,ann\nb,dog,\n")
    import_labels(manifest, file, classes=CLASSES)
    assert manifest.labelled()["labelled_by"].to_pylist() == ["ann", None]


def test_every_fault_of_a_csv_file_is_told_at_once_with_its_line(manifest, path):
    import_labels(manifest, path("id,label\nc,cat\n"), classes=CLASSES)
    text = (
        'id,label\n"a",dgo\n,cat\n"say ""hi"",\nthen go",dog\nz,cat\nb,cat\nb,cat\nc,dog\nx,1,2\n'
    )
    assert faults_of(manifest, path(text)) == [
        "line 3: the id is empty",
        "line 8: id 'b' occurs in an earlier row; each id must be unique",
        "line 10: 3 values where the header has 2; a value with a comma in it needs quotes",
        "line 2: label 'dgo' is not one of the classes 'cat', 'dog', '3'",
        "line 6: id 'z' is not in the manifest",
        "line 9: 'c' is already labelled 'cat', not 'dog'; use overwrite to change it",
    ]


def test_every_fault_of_a_json_lines_file_is_told_at_once(manifest, path):
    rows = [
        '{"id": "a", "label": "cat"}',
        "",
        '{"id": "b", "tag": "cat"}',
        '{"id": null, "label": "cat"}',
        '{"id": "b", "label": 2.5}',
        '{"id": "\\ud800", "label": "cat"}',
        "[1]",
        '{"id": "c", "label": 3',
        '{"id": true, "label": 3}',
    ]
    faults = faults_of(manifest, path("\n".join(rows), "l.jsonl"))
    assert [fault.split(":")[0] for fault in faults] == [f"line {n}" for n in range(3, 10)]
    assert "column 'label' is missing; columns found: id, tag" in faults[0]
    assert "label is 2.5; it must be a string" in faults[2]
    assert "id is '\\ud800'; it must be a string" in faults[3]
    assert faults[5].startswith("line 8: this is not JSON")


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        ("", "l.csv", "line 1: column 'id' is missing; columns found: none"),
        (
            "name,label\na,cat\n",
            "l.csv",
            "line 1: column 'id' is missing; columns found: name, label",
        ),
        ("id,label,id\na,cat,a\n", "l.csv", "line 1: column 'id' occurs more than once"),
        ('id,label\na,"cat\n', "l.csv", "line 2: unexpected end of data"),
        ("id,label\né,cat\n".encode("latin-1"), "l.csv", "byte 9 is not UTF-8"),
        (
            pa.table({"id": ["a"]}),
            "l.parquet",
            "schema: column 'label' is missing; columns found: id",
        ),
        (pa.table({"id": ["a"], "label": [3.0]}), "l.parquet", "row 1: label is 3.0"),
        ("id,label\n", "l.txt", "the name of the file must end in one of .csv, .parquet, .jsonl"),
    ],
)
def test_files_that_are_not_what_they_should_be(manifest, path, content, name, told):
    assert faults_of(manifest, path(content, name))[0].startswith(told)


def test_a_missing_or_torn_file_is_a_storage_error(manifest, tmp_path, path):
    with pytest.raises(StorageError, match=r"l\.parquet is not a complete Parquet file"):
        import_labels(manifest, path("not parquet", "l.parquet"), classes=CLASSES)
    for name in ("none.csv", "none.parquet", "none.jsonl"):
        with pytest.raises(StorageError, match=name):
            import_labels(manifest, str(tmp_path / name), classes=CLASSES)
    with pytest.raises(LabelError, match="must end in"):
        export_labels(manifest, str(tmp_path / "out.txt"))


def test_many_faults_and_many_classes_are_told_shortly(manifest, path):
    text = "id,label\n" + "a\n" * 57
    faults = faults_of(manifest, path(text))
    assert len(faults) == 21
    assert faults[-1] == "and 37 more"
    (fault,) = faults_of(manifest, path("id,label\na,x\n"), classes=[str(i) for i in range(1000)])
    assert fault.endswith("the classes '0', '1', '2', '3', '4' and 995 more")


def test_unknown_ids_can_be_skipped(manifest, path):
    file = path("id,label\nz,horse\na,cat\nb,\n")
    assert len(faults_of(manifest, file)) == 2
    done = import_labels(manifest, file, classes=CLASSES, skip_unknown=True)
    assert done == LabelImport(imported=1, unchanged=0, skipped=1, unanswered=1)


def test_another_label_needs_overwrite(manifest, path):
    import_labels(manifest, path("id,label\na,cat\nb,cat\n"), classes=CLASSES)
    done = import_labels(
        manifest, path("id,label\na,dog\nb,cat\n"), classes=CLASSES, overwrite=True
    )
    assert (done.imported, done.unchanged) == (1, 1)
    assert labels_of(manifest) == {"a": "dog", "b": "cat"}


def test_any_fsspec_uri_will_do(manifest):
    assert export_labels(manifest, "memory://bucket/todo.parquet") == 6
    assert import_labels(manifest, "memory://bucket/todo.parquet", classes=CLASSES).unanswered == 6


AWKWARD = [
    unicodedata.normalize("NFC", "é.jpg"),
    unicodedata.normalize("NFD", "é.jpg"),
    "🦊👩‍👩‍👧.png",
    "a/../../b.jpg",
    "/etc/passwd",
    "..",
    "x" * 1024,
    *("1", "01", "1.0", "1e0", "0x1", "+1", "١", "NaN", "null", "true", "2026-11-22"),
    *(" 1", "1 ", "a,b", 'a"b', "a\nb", "a\r\nb", "=1+1", "\ufeffa"),
]


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_awkward_ids_go_through_every_file_byte_for_byte(tmp_path, extension):
    # Pool → scores → selection → manifest → export → import. No file is named by an id.
    work = tmp_path / "a" / "b" / "work"
    pool = publish_table(
        str(work / "pool"), pa.table({"id": AWKWARD, "image": [b""] * len(AWKWARD)})
    )
    with open_parquet(pool) as parquet:
        ids = parquet.read(columns=["id"])["id"]
    columns = {name: pa.nulls(len(ids), SCORES.field(name).type) for name in SCORES.names}
    columns |= {"id": ids, "bald": pa.array(np.arange(len(ids)), pa.float32())}
    publish_table(str(work / "scores"), pa.table(columns, schema=SCORES))
    picks = top_k(str(work / "scores"), 100)
    assert picks["id"].to_pylist() == AWKWARD[::-1]
    manifest = Manifest(str(work / "manifest"))
    manifest.acquire(picks, "2026-11-22")
    path = str(work / f"todo{extension}")
    assert export_labels(manifest, path) == len(AWKWARD)
    fill_in(path, dict.fromkeys(AWKWARD, "cat"))
    assert import_labels(manifest, path, classes=CLASSES).imported == len(AWKWARD)
    assert sorted(labels_of(manifest)) == sorted(AWKWARD)
    assert os.listdir(tmp_path) == ["a"]
    names = "".join(str(file) for file in tmp_path.rglob("*"))
    assert not any(id in names for id in AWKWARD if len(id) > 3 and id not in ("null", "true"))


def test_a_label_that_was_refused_leaves_the_good_rows_beside_it_unwritten(manifest, path):
    # Half of the file is good. None of it is imported until all of it is good.
    good = "".join(f"{id},cat\n" for id in "abc")
    for bad in ("007,horse\n", "nobody,cat\n", "a,cat\n", "a,dog\n", ",cat\n", "007\n"):
        (fault,) = faults_of(manifest, path(f"id,label\n{good}{bad}"))
        assert fault.startswith("line 5: ")
    assert import_labels(manifest, path(f"id,label\n{good}"), classes=CLASSES).imported == 3


def test_an_exported_file_says_which_images_go_back_to_the_pool(manifest, tmp_path, path):
    import_labels(manifest, path("id,label\na,cat\n"), classes=CLASSES)
    todo = str(tmp_path / "todo.csv")
    assert export_labels(manifest, todo) == 5
    assert release_images(manifest, str(tmp_path), path=todo) == 5
    assert release_images(manifest, str(tmp_path), path=todo) == 0
    assert manifest.ids().to_pylist() == ["a"]


def test_of_a_round_all_that_nobody_labelled_goes_back(manifest, tmp_path, path):
    manifest.acquire(pa.table({"id": ["z"]}), "2026-11-23")
    import_labels(manifest, path("id,label\na,cat\n"), classes=CLASSES)
    assert release_images(manifest, str(tmp_path), round_id="2026-11-22") == 5
    assert sorted(manifest.ids().to_pylist()) == ["a", "z"]


def test_a_labelled_image_is_not_released(manifest, tmp_path, path):
    import_labels(manifest, path("id,label\na,cat\n"), classes=CLASSES)
    with pytest.raises(ManifestError, match="'a' is labelled"):
        release_images(manifest, str(tmp_path), path=path("id\nb\na\n"))
    assert len(manifest.rows(status="acquired")) == 5


def test_images_of_a_round_that_is_unfinished_are_not_released(manifest, tmp_path, path):
    # Another round could acquire some of its picks. It would then find only part of its batch.
    plan = f"{tmp_path}/rounds/2026-11-22/plan.json"
    storage.publish(plan, b"{}")
    with pytest.raises(UnfinishedRoundError, match="2026-11-22"):
        release_images(manifest, str(tmp_path), path=path("id\nb\n"))
    storage.publish(f"{tmp_path}/rounds/2026-11-22/round.json", b"{}")
    assert release_images(manifest, str(tmp_path), path=path("id\nb\n")) == 1


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_rejected_images_need_no_label(manifest, tmp_path, extension):
    file = str(tmp_path / f"unusable{extension}")
    content = {
        ".csv": b"why,id\nblurred,a\n",
        ".jsonl": b'{"id": "a", "label": 2.5}\n',
        ".ndjson": b'{"id": "a"}\n',
    }
    if extension in content:
        storage.publish(file, content[extension])
    else:
        pq.write_table(pa.table({"id": ["a"], "label": [float("nan")]}), file)
    assert reject_images(manifest, file) == 1
    assert manifest.rows(status="rejected")["id"].to_pylist() == ["a"]


def test_every_fault_of_a_file_of_ids_is_told(manifest, path):
    with pytest.raises(LabelError) as caught:
        reject_images(manifest, path("id,why\na,dark\n,blurred\na,torn\n"))
    assert caught.value.faults == [
        "line 3: the id is empty",
        "line 4: id 'a' occurs in an earlier row; each id must be unique",
    ]
    with pytest.raises(LabelError, match="line 1: column 'id' is missing"):
        reject_images(manifest, path("label\ncat\n"))
    assert len(manifest.rows(status="acquired")) == 6


def acquire_all(uri, name, start, results):
    """Acquire what another process also wants, and leave what it took, as rounds do."""
    manifest = Manifest(uri)
    start.wait()
    for number in range(4):
        wanted = [f"{number}-{i}" for i in range(6)][:: -1 if name == "second" else 1]
        while wanted:
            try:
                manifest.acquire(pa.table({"id": wanted[:4]}), f"{name}-{number}")
                break
            except AlreadyAcquiredError as error:
                wanted = [id for id in wanted if id not in error.ids]
        results.put((f"{name}-{number}", sorted(wanted[:4])))


def import_all(uri, folder, start, results):
    """Import files of labels, one by one."""
    start.wait()
    for number, id in enumerate("abc"):
        path = f"{folder}/{number}.csv"
        storage.publish(path, f"id,label\n{id},dog\n".encode())
        done = import_labels(Manifest(uri), path, classes=CLASSES)
        results.put((id, done.imported))


@pytest.mark.timeout(120)
def test_labels_come_in_while_rounds_commit_and_nothing_is_lost_or_doubled(manifest, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["baal_ray.manifest.labels", "pandas", "pytest"])
    start, results = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=target, args=(manifest.uri, name, start, results))
        for target, name in (
            (acquire_all, "first"),
            (acquire_all, "second"),
            (import_all, str(tmp_path)),
        )
    ]
    for process in processes:
        process.start()
    promised = dict(results.get(timeout=60) for _ in range(11))
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert {id: promised.pop(id) for id in "abc"} == dict.fromkeys("abc", 1)
    assert labels_of(manifest) == dict.fromkeys("abc", "dog")
    rows = manifest.rows().filter(pc.not_equal(manifest.rows()["round"], "2026-11-22"))
    assert Counter(rows["id"].to_pylist()) == {f"{n}-{i}": 1 for n in range(4) for i in range(6)}
    for round_id, ids in promised.items():
        assert manifest.rows(round_id=round_id)["id"].to_pylist() == ids
    assert len(manifest.history()) == 1 + 1 + 3 + sum(map(bool, promised.values()))


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_ids_that_look_like_formulas_come_back_from_a_file_that_runs_nothing(tmp_path, extension):
    manifest = Manifest(str(tmp_path / "formulas"))
    ids = [
        "=cmd|' /C calc'!A0",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "'=1",
        "''=1",
        "'a",
        "a=1",
    ]
    score = pa.array(np.linspace(1, 0, len(ids)), pa.float32())
    manifest.acquire(pa.table({"id": ids, "score": score}), "night")
    file = str(tmp_path / f"labels{extension}")
    assert export_labels(manifest, file) == len(ids)
    if extension == ".csv":
        with open(file, newline="") as opened:
            rows = list(csv.DictReader(opened))
        assert not any(value[:1] in set("=+-@\t\r\n") for row in rows for value in row.values())
        for row in rows:
            row["label"] = "cat"
        with open(file, "w", newline="") as opened:
            writer = csv.DictWriter(opened, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        assert import_labels(manifest, file, classes=CLASSES).imported == len(ids)
        assert sorted(manifest.labelled()["id"].to_pylist()) == sorted(ids)
    else:
        assert reject_images(manifest, file) == len(ids)


def test_parquet_with_texts_that_are_not_utf8_is_named(tmp_path, manifest):
    bad = pa.array([b"\xff"], pa.binary()).view(pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 1, bad.buffers())
    file = str(tmp_path / "bad.parquet")
    pq.write_table(pa.table({"id": bad, "label": ["cat"]}), file)
    with pytest.raises(StorageError, match=r"bad.parquet has text .* not UTF-8"):
        import_labels(manifest, file, classes=CLASSES)
