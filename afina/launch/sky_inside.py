"""What is asked of SkyPilot's library. This file is read by the Python of SkyPilot's own environment, whose pins are
not afina's: it imports SkyPilot and the standard library, and prints one line of JSON.

    python sky_inside.py validate TASK.yaml        {"ok": true, "said": "the resources as SkyPilot read them"}
    python sky_inside.py credentials CLOUD         {"ok": false, "said": "what is missing"}
    python sky_inside.py status CLUSTER            {"ok": true, "said": "UP"}; "" where there is no such cluster
    python sky_inside.py lacks CLOUD               {"ok": true, "said": "stop multi_node ..."}
    python sky_inside.py schema                    {"ok": true, "said": {"task": its JSON schema, "resources": ...}}
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable


def _validate(file: str) -> dict[str, object]:
    import sky

    task = sky.Task.from_yaml(file)
    return {"ok": True, "said": ", ".join(sorted(map(str, task.resources)))}


def _credentials(name: str) -> dict[str, object]:
    from sky.clouds import CloudCapability
    from sky.utils.registry import CLOUD_REGISTRY

    ok, why = CLOUD_REGISTRY.from_str(name).check_credentials(CloudCapability.COMPUTE)
    return {"ok": bool(ok), "said": " ".join(str(why or "").split())}


def _status(name: str) -> dict[str, object]:
    import sky

    found = sky.get(sky.status([name], refresh=sky.StatusRefreshMode.FORCE))
    return {"ok": True, "said": found[0]["status"].value if found else ""}


def _lacks(name: str) -> dict[str, object]:
    from sky import Resources
    from sky.utils.registry import CLOUD_REGISTRY

    cloud = type(CLOUD_REGISTRY.from_str(name))
    lacks = cloud._unsupported_features_for_resources(Resources())
    return {"ok": True, "said": " ".join(sorted(each.value for each in lacks))}


def _schema() -> dict[str, object]:
    from sky.utils import schemas

    return {"ok": True, "said": {"task": schemas.get_task_schema(), "resources": schemas.get_resources_schema()}}


if __name__ == "__main__":
    sys.path = [each for each in sys.path if not each.endswith("launch")]  # this folder's modules are not SkyPilot's
    does: dict[str, Callable[..., dict[str, object]]] = {
        "validate": _validate,
        "credentials": _credentials,
        "status": _status,
        "lacks": _lacks,
        "schema": _schema,
    }
    try:
        answer = does[sys.argv[1]](*sys.argv[2:])
    except Exception as error:  # noqa: BLE001  # whatever SkyPilot raises is told as its own words
        answer = {"ok": False, "said": f"{type(error).__name__}: {error}"}
    print("\nafina:" + json.dumps(answer))  # noqa: T201  # SkyPilot prints too
