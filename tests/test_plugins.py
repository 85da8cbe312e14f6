"""Our FiftyOne plugin is found without being copied, and the user's own are found as before."""

import os
import subprocess
import sys

LIST = (
    "import os, sys; import wss_data.store.connection as c; fo = c.fiftyone();"
    "import fiftyone.plugins as p; print(sorted(found.name for found in p.list_plugins()), fo.config.plugins_dir)"
)


def listed(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LIST], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_plugin_is_found_beside_the_users_and_again_by_a_process_that_inherits_the_folder(database, tmp_path):
    own = tmp_path / "mine" / "greeter"
    own.mkdir(parents=True)
    (own / "fiftyone.yml").write_text("name: '@me/greeter'\ntype: plugin\n")
    home = tmp_path / "home"

    first = listed(WSS_HOME=str(home), FIFTYONE_PLUGINS_DIR=str(own.parent))
    again = listed(WSS_HOME=str(home), FIFTYONE_PLUGINS_DIR=str(home / ".plugins"))

    assert first == again == f"['@me/greeter', '@wss/judge'] {home / '.plugins'}\n"


def test_without_a_place_for_the_link_the_datasets_work_as_ever(database, tmp_path):
    (tmp_path / "home").write_text("a file where a folder should be")
    assert "@wss/judge" not in listed(WSS_HOME=str(tmp_path / "home"), FIFTYONE_PLUGINS_DIR=str(tmp_path / "none"))
