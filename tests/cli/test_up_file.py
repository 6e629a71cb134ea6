"""The file of `spindle-trio up`: what it may say, and how a wrong field is told, with its line."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spindle_trio import OMITTED, RestartPolicy
from spindle_trio.cli._checked_table import FileRefusedError
from spindle_trio.cli._service_file import ServiceFile, read_service_file
from spindle_trio.cli._toml_lines import lines_of_fields

WHOLE = """\
root = "entries"
strategy = "rest_for_one"
restart = { when = "always", give_up_after = 3 }

[services.db]
entry = "db.py"
payload = { tables = ["users", "orders"], size = 3 }
environment = { PORT = "5432" }
arguments = ["--fast"]
folder = "data"
key = "main"
restart = { when = "on_failure", max_lifetime = 3600 }
startup_timeout = 30
heartbeat_timeout = inf
grace_period = 10

[services.api]
entry = "api.mjs"

[services.web]
entry = "web.py"
restart = "never"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "entries" / "data").mkdir(parents=True)
    for name in ("db.py", "api.mjs", "web.py"):
        (tmp_path / "entries" / name).touch()
        (tmp_path / name).touch()
    return tmp_path


def read(folder: Path, text: str | bytes) -> ServiceFile:
    file = folder / "up.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_service_file(file)


def problems(folder: Path, text: str | bytes) -> list[str]:
    """Read a file that is refused, and return what is wrong, without the folder's name."""
    with pytest.raises(FileRefusedError) as refused:
        read(folder, text)
    return str(refused.value).replace(f"{folder}/", "").splitlines()


def problem(folder: Path, text: str | bytes) -> str:
    (line,) = problems(folder, text)
    return line


# ---- what a file may say


def test_a_file_says_all_of_its_services_in_order(folder: Path) -> None:
    file = read(folder, WHOLE)
    assert file.root == folder / "entries"
    assert file.strategy == "rest_for_one"
    assert file.restart == RestartPolicy("always", give_up_after=3)
    assert [service.name for service in file.services] == ["db", "api", "web"]
    db = file.services[0]
    assert db.entry == "db.py"
    assert db.payload == {"tables": ["users", "orders"], "size": 3}
    assert db.environment == {"PORT": "5432"}
    assert db.arguments == ("--fast",)
    assert (db.folder, db.key) == ("data", "main")
    assert db.restart == RestartPolicy("on_failure", max_lifetime=3600, give_up_after=3)
    assert (db.startup_timeout, db.heartbeat_timeout, db.grace_period) == (30, math.inf, 10)


def test_what_a_service_leaves_out_has_the_defaults_of_a_spawn(folder: Path) -> None:
    api = read(folder, WHOLE).services[1]
    assert api.payload is OMITTED
    assert (api.environment, api.arguments, api.folder, api.key) == ({}, (), None, None)
    assert (api.startup_timeout, api.heartbeat_timeout, api.grace_period) == (15, 15, 5)


def test_a_service_without_a_policy_follows_that_of_the_file(folder: Path) -> None:
    _, api, web = read(folder, WHOLE).services
    assert api.restart.when == "always"
    assert web.restart.when == "never"


def test_the_least_file_is_one_service_in_the_files_own_folder(folder: Path) -> None:
    file = read(folder, '[services.db]\nentry = "db.py"\n')
    assert file.root == folder
    assert file.strategy == "one_for_one"
    assert file.restart == RestartPolicy()


def test_a_service_that_is_never_restarted_has_no_lifetime_from_the_file(folder: Path) -> None:
    file = read(folder, "restart = { max_lifetime = 99 }\n" + DB + 'restart = "never"\n')
    assert file.services[0].restart == RestartPolicy("never")


def test_a_policy_that_never_gives_up_is_written_inf(folder: Path) -> None:
    file = read(folder, 'restart = { give_up_after = inf }\n[services.db]\nentry = "db.py"\n')
    assert file.restart.give_up_after is None


def test_a_file_may_begin_with_the_mark_of_utf_8(folder: Path) -> None:
    assert read(folder, b"\xef\xbb\xbf" + DB.encode()).services[0].entry == "db.py"


# ---- what is wrong, and where

DB = '[services.db]\nentry = "db.py"\n'
PROGRAM = "[services.db]\ncommand = ['redis-server']\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (DB + "entyr = 3\n", "up.toml:3: services.db.entyr is no field (did you mean entry?); there are"),
        (DB + "grace = 3\n", "up.toml:3: services.db.grace is no field (did you mean grace_period?); there are"),
        (DB + "env = {}\n", "up.toml:3: services.db.env is no field (did you mean environment?); there are"),
        (DB + "xyz = 3\n", "up.toml:3: services.db.xyz is no field; there are entry, payload, environment, arguments"),
        (
            DB + 'strategy = "one_for_one"\n',
            "up.toml:3: services.db.strategy belongs to the file as a whole: put it at",
        ),
        (
            "stratgy = 3\n" + DB,
            "up.toml:1: stratgy is no field (did you mean strategy?); there are root, strategy, res",
        ),
        ("\nservice.db = 3\n" + DB, "up.toml:2: service is no field (did you mean services?)"),
        ('strategy = "one_for_al"\n' + DB, 'up.toml:1: strategy is "one_for_al"; it has to be "one_for_one", "one_fo'),
        ('strategy = "one_for_al"\n' + DB, " (did you mean one_for_all?)"),
        (
            "strategy = 1\n" + DB,
            'up.toml:1: strategy is 1; it has to be "one_for_one", "one_for_all" or "rest_for_one"',
        ),
        ('root = "nowhere"\n' + DB, 'up.toml:1: root is "nowhere"; it has to be a folder that exists, relative to'),
        ("root = 3\n" + DB, "up.toml:1: root is 3; it has to be a text that is not blank"),
        (
            DB + 'startup_timeout = "soon"\n',
            'up.toml:3: services.db.startup_timeout is "soon"; it has to be seconds abo',
        ),
        (
            DB + "startup_timeout = inf\n",
            "up.toml:3: services.db.startup_timeout is inf; it has to be seconds above 0, ",
        ),
        (DB + "startup_timeout = true\n", "up.toml:3: services.db.startup_timeout is true; it has to be seconds"),
        (DB + "heartbeat_timeout = 0\n", "up.toml:3: services.db.heartbeat_timeout is 0; it has to be seconds above 0"),
        (DB + "heartbeat_timeout = nan\n", "up.toml:3: services.db.heartbeat_timeout is nan; it has to be seconds"),
        (
            DB + "grace_period = -1\n",
            "up.toml:3: services.db.grace_period is -1; it has to be seconds, 0 or more, such",
        ),
        (
            DB + 'arguments = "--fast"\n',
            'up.toml:3: services.db.arguments is "--fast"; it has to be an array of texts, ',
        ),
        (
            DB + "arguments = [\n1]\n",
            "up.toml:3: services.db.arguments is [1]; it has to be an array of texts, such as [",
        ),
        (DB + "environment = 3\n", "up.toml:3: services.db.environment is 3; it has to be a table of texts, such as {"),
        (
            DB + "environment.PORT = 5432\n",
            'services.db.environment.PORT is 5432; it has to be a text, such as PORT = "',
        ),
        (DB + '[services.db.environment]\nA = "1"\n"B=" = "2"\n', 'up.toml:5: services.db.environment."B=" is "2"; it'),
        (
            DB + "payload = { since = 1979-05-27 }\n",
            'up.toml:3: services.db.payload.since is "1979-05-27"; it has to be',
        ),
        (
            DB + "payload = [1, inf]\n",
            "up.toml:3: services.db.payload is inf; it has to be a JSON value: a text, a num",
        ),
        (DB + 'key = " "\n', 'up.toml:3: services.db.key is " "; it has to be a text that is not blank'),
        (
            DB + 'folder = "dta"\n',
            'up.toml:3: services.db.folder is "dta"; it has to be a folder that exists below the',
        ),
        (
            DB + 'folder = "../x"\n',
            'up.toml:3: services.db.folder is "../x"; it has to be the path of a folder below the',
        ),
        (
            '[services.db]\nentry = "bd.py"\n',
            'services.db.entry is "bd.py"; it has to be a .py, .js, .mjs or .cjs file tha',
        ),
        (
            '[services.db]\nentry = "up.toml"\n',
            'services.db.entry is "up.toml"; it has to be a .py, .js, .mjs or .cjs file',
        ),
        ('[services.db]\nentry = "ap.mjs"\n', " (did you mean api.mjs?)"),
        (
            '[services.db]\nentry = "/db.py"\n',
            'services.db.entry is "/db.py"; it has to be the path of a .py, .js, .mj',
        ),
        (
            '[services.db]\nentry = "."\n',
            'up.toml:2: services.db.entry is "."; it has to be a .py, .js, .mjs or .cjs file that',
        ),
        (
            DB + f"grace_period = 0x{'f' * 5000}\n",
            "up.toml:3: services.db.grace_period is a value with too many digits; it has to",
        ),
        (
            DB + f"arguments = [0x{'f' * 5000}]\n",
            "up.toml:3: services.db.arguments is a value with too many digits; it has to be",
        ),
        (
            DB + f"environment.A = 0x{'f' * 5000}\n",
            "services.db.environment.A is a value with too many digits; it has to be a te",
        ),
        ("[services.db]\nentry = { a = 1 }\n", "up.toml:2: services.db.entry is a table; it has to be a text"),
        ("\n[services.db]\nkey = 'x'\n", "up.toml:2: services.db has no entry; add entry, the path of a .py, .js"),
        (
            "\n[services.db]\ncommand = 'x'\n",
            'up.toml:3: services.db.command is "x"; it has to be an array of texts',
        ),
        (
            DB + "command = ['x']\n",
            "up.toml:2: services.db.entry cannot stand beside command: a service is an entry or a program",
        ),
        ("[services.db]\ncommand = []\n", "up.toml:2: services.db.command is []; it has to begin with a program"),
        (
            PROGRAM + "ready = 'soon'\n",
            'up.toml:3: services.db.ready is "soon"; it has to be "started", "notify" or a table',
        ),
        (PROGRAM + "ready = { tcp = 0 }\n", "up.toml:3: services.db.ready.tcp is 0; it cannot be so: port must be"),
        (PROGRAM + "ready = { udp = 1 }\n", "up.toml:3: services.db.ready.udp is no field"),
        (PROGRAM + "ready = { tcp = 1, line = 'x' }\n", "up.toml:3: services.db.ready has to be one of {"),
        (PROGRAM + "ready = {}\n", "up.toml:3: services.db.ready has to be one of {"),
        (PROGRAM + "stop_signal = 'TERM'\n", 'services.db.stop_signal is "TERM"; it has to be the name of a signal'),
        (PROGRAM + "payload = 1\n", "up.toml:3: services.db.payload is for entries; put all words of a program into"),
        (DB + "ready = 'notify'\n", "up.toml:3: services.db.ready is for programs: give command instead of entry"),
        (DB + "limits = { memory = '1X' }\n", 'services.db.limits.memory is "1X"; it has to be a number of bytes, or'),
        (DB + "limits = { memory = 0 }\n", "services.db.limits.memory is 0; it has to be a number of bytes"),
        (DB + "limits = { cpus = 0 }\n", "up.toml:3: services.db.limits cannot be so: cpus must be a positive"),
        (DB + "limits = { cores = 1 }\n", "up.toml:3: services.db.limits.cores is no field"),
        (DB + "sandbox = 'tight'\n", 'services.db.sandbox is "tight"; it has to be "read-only", "workspace-write"'),
        (DB + "sandbox = { read = ['x'] }\n", "up.toml:3: services.db.sandbox cannot be so: read: 'x' is not absolute"),
        (DB + "sandbox = { subprocesses = 1 }\n", "services.db.sandbox.subprocesses is 1; it has to be true or false"),
        (
            "[services]\ndb = 'db.py'\n",
            'up.toml:2: services.db is "db.py"; it has to be a table, as in [services.db] w',
        ),
        ("[[services]]\nentry = 'db.py'\n", 'up.toml:1: services is [{"entry": "db.py"}]; it has to be a table, as in'),
        ("[services.'a b']\nentry = 'db.py'\n", 'up.toml:1: services."a b" is no name for a service: it has to be'),
        ("", "up.toml:1: services is missing: add a table for each service, as in [services.db]"),
        ("[services]\n", "up.toml:1: services is missing: add a table for each service, as in [services.db]"),
        (
            DB + 'restart = "allways"\n',
            'up.toml:3: services.db.restart is "allways"; it has to be "never", "on_failure"',
        ),
        (DB + 'restart = "allways"\n', " (did you mean always?)"),
        (
            DB + "restart = { delay = 1 }\n",
            "up.toml:3: services.db.restart.delay counts for all services together: put",
        ),
        (
            DB + "restart = { dely = 1 }\n",
            "up.toml:3: services.db.restart.dely is no field; there are when and max_lif",
        ),
        (
            DB + "restart = { max_lifetime = 9 }\n",
            "services.db.restart.max_lifetime cannot be so: max_lifetime=9 is not m",
        ),
        (
            DB + "restart = { when = 'never', max_lifetime = 99 }\n",
            "services.db.restart.when cannot be so: when='never' a",
        ),
        (DB + "restart = 3\n", 'it has to be "never", "on_failure", "always" or a table, such as { when = "always"'),
        (
            'restart = { when = "ever" }\n' + DB,
            'up.toml:1: restart.when is "ever"; it has to be "never", "on_failure" o',
        ),
        ("restart = { give_up = 3 }\n" + DB, "up.toml:1: restart.give_up is no field (did you mean give_up_after?)"),
        ("restart = { give_up_after = 0 }\n" + DB, "restart.give_up_after is 0; it has to be a whole number above 0"),
        ("restart = { delay = '1' }\n" + DB, 'up.toml:1: restart.delay is "1"; it has to be a number'),
        (
            "[restart]\n\ndelay = 0\n" + DB,
            "up.toml:3: restart.delay cannot be so: delay must be a positive, finite numb",
        ),
        (
            "[restart]\nfactor = 1\nmax_delay = 9\n" + DB,
            "up.toml:2: restart.factor cannot be so: factor=1 and max_delay=9",
        ),
    ],
)
def test_a_wrong_field_is_told_with_its_line_and_what_it_may_be(folder: Path, text: str, line: str) -> None:
    assert line in problem(folder, text)


def test_all_that_is_wrong_is_told_at_once_in_the_order_of_the_file(folder: Path) -> None:
    text = '[services.db]\nkey = 3\nentry = "no.py"\n[services.api]\nentyr = "api.mjs"\n'
    assert [line.partition(" ")[0] for line in problems(folder, text)] == [f"up.toml:{n}:" for n in (2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[services.db\n", "up.toml:1: this is no TOML: Expected ']' at the end of a table declaration"),
        (DB + "key = \n", "up.toml:3: this is no TOML: Invalid value"),
        (DB + "key = 'x'\nkey = 'y'\n", "up.toml:4: this is no TOML: Cannot overwrite a value"),
        (DB + DB, "up.toml:3: this is no TOML: Cannot declare"),
        (DB + "key = '''", "up.toml:3: this is no TOML: "),
        (DB + "arguments = [\n", "up.toml:3: this is no TOML: "),
        (b"a = 1\nb = '\xff'\n", "up.toml:2: this is no TOML: it is not UTF-8"),
        (b"\xef\xbb\xbfa = 1\n\xff\n", "up.toml:2: this is no TOML: it is not UTF-8"),
        (DB + f"payload = '{'9' * 5000}'\nkey = {'9' * 5000}\n", "up.toml:4: this is no TOML: a number has too many"),
        (DB + f"\narguments = [{'9' * 5000}\n\n", "up.toml:4: this is no TOML: a number has too many"),
        ("x = " + "[" * 100_000, "up.toml:1: this is no TOML: it is nested too deeply"),
    ],
)
def test_a_file_that_is_no_toml_is_told_with_its_line(folder: Path, text: str | bytes, line: str) -> None:
    assert problem(folder, text).startswith(line)


def test_a_long_value_is_not_shown_at_length(folder: Path) -> None:
    assert len(problem(folder, DB + f"startup_timeout = '{'x' * 10_000}'\n")) < 200


FIELDS = (
    *("root", "strategy", "restart", "services", "entry", "payload", "environment", "arguments", "folder", "key"),
    *(
        "startup_timeout",
        "heartbeat_timeout",
        "grace_period",
        "command",
        "ready",
        "limits.memory",
        "sandbox",
        "x",
        "restart.when",
        "restart.delay",
    ),
    *("restart.factor", "restart.max_lifetime", "restart.give_up_after", "environment.A", "payload.a.b", "sandbox"),
)
LITERALS = (
    *(
        "1",
        "0",
        "-1",
        "0.5",
        "inf",
        "-inf",
        "nan",
        "1e400",
        "9" * 400,
        "9" * 5000,
        "0x" + "f" * 5000,
        "true",
        '"x"',
        '""',
        '"db.py"',
        '"data"',
        '"never"',
    ),
    *(
        '"a\\u0000b"',
        f'"{"x" * 5000}"',
        "[]",
        "[1]",
        '["a"]',
        "[[[]]]",
        "{}",
        "{ a = 1 }",
        '{ "=" = "1" }',
        "1979-05-27",
    ),
    *('{ when = "never", max_lifetime = 99 }', "{ delay = 99 }", "[{ a = inf }]", '"""\n[services.a]\n"""', "07:32:00"),
)
ASSIGNMENTS = st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(LITERALS), max_size=4)


@given(ASSIGNMENTS, st.lists(ASSIGNMENTS, max_size=3))
def test_any_file_is_taken_or_refused_with_lines(
    tmp_path_factory: pytest.TempPathFactory, top: dict[str, str], services: list[dict[str, str]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "db.py").touch()
    text = "".join(f"{name} = {value}\n" for name, value in top.items())
    for number, fields in enumerate(services):
        text += f"[services.s{number}]\n" + "".join(f"{name} = {value}\n" for name, value in fields.items())
    try:
        file = read(folder, text)
    except FileRefusedError as error:
        for line in str(error).splitlines():
            found = re.match(r".*/up\.toml:(\d+): \S", line)
            assert found, line
            assert 1 <= int(found[1]) <= max(1, text.count("\n"))
    else:
        assert len(file.services) == len(services)


# ---- the lines of fields


def test_a_field_has_the_line_on_which_it_begins_whatever_stands_in_texts() -> None:
    lines = lines_of_fields(
        '''# [services.no]
a = """
b = 1
[services.no]
"""
[services.db]  # the database
payload = [
  1, # ]
  "]",
]
"quoted key" = '[x]'
environment.PORT = "1"
environment.HOST = "2"
restart = { when = "never", delay = 1 }

[services.api.payload]
b = 1
'''.replace("\n", "\r\n")
    )
    assert lines == {
        ("a",): 2,
        ("services",): 6,
        ("services", "db"): 6,
        ("services", "db", "payload"): 7,
        ("services", "db", "quoted key"): 11,
        ("services", "db", "environment"): 12,
        ("services", "db", "environment", "PORT"): 12,
        ("services", "db", "environment", "HOST"): 13,
        ("services", "db", "restart"): 14,
        ("services", "db", "restart", "when"): 14,
        ("services", "db", "restart", "delay"): 14,
        ("services", "api"): 16,
        ("services", "api", "payload"): 16,
        ("services", "api", "payload", "b"): 17,
    }


NAMES = st.text("ab.[]#='\" \\", min_size=1, max_size=3)
TEXTS = st.text("ab[]{}#='\"\n\\,", max_size=8)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def in_lines(text: str) -> str:
    return '"""\n' + text.replace("\\", "\\\\").replace('"', '\\"') + '"""'


HARD = (
    *('"""a"""""', '"""\\""""', '"""\n\\\\"""', '""""""', '"""\n"[" ""\n"""', '"\\\\"', '"\\""', '"#["', '""'),
    *("'''a'''''", "'''\\'''", "''''''", "'''\n'[' \n'''", "'\\'", "'#['", "''"),
    *('[{ a = "]" }, # ]\n[\n] ]', "{ a = [\n1, # }\n], b = { c = '}' } } # {", "1979-05-27T07:32:00Z", "-1.5e3"),
)
VALUES = st.one_of(
    TEXTS.map(quoted),
    TEXTS.map(in_lines),
    st.lists(TEXTS.map(in_lines)).map(lambda v: f"[\n{','.join(v)}]"),
    st.sampled_from(HARD),
)


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=3), max_size=3))
def test_the_line_of_each_field_is_right_for_any_names_and_texts(tables: dict[str, dict[str, str]]) -> None:
    text, expected = "", {}
    for table, fields in tables.items():
        expected[table,] = text.count("\n") + 1
        text += f"[{quoted(table)}]\n"
        for name, value in fields.items():
            expected[table, name] = text.count("\n") + 1
            text += f"{quoted(name)} = {value}\n"
    tomllib.loads(text)
    assert {path: line for path, line in lines_of_fields(text).items() if path in expected} == expected
