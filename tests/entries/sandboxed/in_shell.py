"""Tries what it is told to in a shell, and completes with what came of each."""

import json
import os
import subprocess

HELPER = os.path.join(os.path.dirname(__file__), "attempts.py")

NATIVE = {
    "read_ssh": 'cat "$home/.ssh/id_ed25519"',
    "list_home": 'ls "$home"',
    "write_beside": 'echo here > "$beside/new"',
    "change_beside": 'echo more >> "$beside/file"',
    "truncate_beside": ': > "$beside/file"',
    "remove_beside": 'rm "$beside/removable"',
    "make_folder_beside": 'mkdir "$beside/folder"',
    "move_in": 'mv "$beside/movable" "$root/moved-in"',
    "hard_link_out": 'ln "$beside/file" "$root/hard" && echo more >> "$root/hard"',
    "soft_link_out": 'cat "$root/ready-link"',
    "write_by_a_soft_link": 'echo more >> "$root/ready-link"',
    "write_root": 'echo here > "$root/written"',
    "proc_environment": 'cat "/proc/$victim/environ"',
    "proc_command_line": 'cat "/proc/$victim/cmdline"',
    "signal_other": 'kill -CONT "$victim"',
    "mount": '(mount -t tmpfs none "$root" && umount "$root")',
    "new_user_namespace": "unshare --user true",
    "new_mount_namespace": "unshare --mount true",
    "subprocesses": "ls /usr | cat",
    "temporary_files": 'file=$(mktemp) && echo x > "$file" && cat "$file" && rm "$file"',
    "devices": "head -c 8 /dev/urandom > /dev/null",
    "read_root": 'cat "$root/data/file" && ls "$root"',
    "signal_own_child": "sleep 60 & kill $!",
}


def run(process):
    process.ready()
    at, python = process.payload["at"], process.payload["python"]
    told = {**os.environ, **{name: str(value) for name, value in at.items()}}
    outcomes = {}
    for name in process.payload["names"]:
        command = NATIVE.get(name, f'"{python}" "{HELPER}" {name} "$targets"')
        ran = subprocess.run(
            ["sh", "-c", command], env={**told, "targets": json.dumps(at)}, capture_output=True, text=True, check=False
        )
        said = (ran.stdout.strip() if name not in NATIVE else ran.stderr.strip()) or ran.stderr[-300:]
        outcomes[name] = "done" if ran.returncode == 0 else said if name not in NATIVE else f"refused: {said}"
    process.complete(outcomes)
