"""The tests that take long: those that start systems again and again, kill them, drive a browser, take the
figures of a benchmark, or follow a document to the letter.

``scripts/test`` leaves them out, ``scripts/test --long`` runs them alone, and continuous integration runs
both.
"""

from __future__ import annotations

from typing import Final

#: Files, and single tests of files whose others are quick.
LONG: Final = frozenset(
    {
        "tests/clients/test_typescript.py::test_client_works_with_a_real_gateway",
        "tests/clients/test_typescript.py::test_first_example_of_the_readme_runs_as_printed",
        "tests/deploy/test_proxies.py",
        "tests/deploy/test_supervisor.py",
        "tests/deploy/test_units.py::test_programs_run_with_the_rights_of_their_units",
        "tests/gateway/extensions/test_example.py",
        "tests/integration/test_activation.py",
        "tests/integration/test_admission.py",
        "tests/integration/test_applications.py",
        "tests/integration/test_browser_page.py",
        "tests/integration/test_cli.py",
        "tests/integration/test_client_python.py",
        "tests/integration/test_clients_hostile.py",
        "tests/integration/test_crash.py",
        "tests/integration/test_crash_states.py",
        "tests/integration/test_demo.py",
        "tests/integration/test_fairness.py",
        "tests/integration/test_faults.py",
        "tests/integration/test_health.py",
        "tests/integration/test_hanging.py",
        "tests/integration/test_hostile_peer.py",
        "tests/integration/test_log_secrets.py",
        "tests/integration/test_operations.py",
        "tests/integration/test_printed_commands.py",
        "tests/integration/test_record.py",
        "tests/integration/test_replacing.py",
        "tests/integration/test_resilience.py",
        "tests/integration/test_stream.py",
        "tests/integration/test_tcp.py",
        "tests/integration/test_tutorial.py",
        "tests/integration/test_up.py",
        "tests/integration/test_waiting.py",
        "tests/test_benchmarks.py",
        "tests/test_ecmascript_runner.py",
        "tests/test_isolation.py",
        "tests/workers/javascript/test_image.py::test_fresh_instances_are_alike_and_small",
        "tests/workers/javascript/test_image.py::test_image_is_the_same_each_time_it_is_made",
    }
)


def is_long(node: str) -> bool:
    """Whether the test of this name, as pytest writes it, is one of them."""
    file, _, rest = node.partition("::")
    return file in LONG or f"{file}::{rest.partition('[')[0]}" in LONG
