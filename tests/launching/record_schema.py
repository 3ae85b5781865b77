"""Records which keys SkyPilot's schema of a task has, and what those that afina writes may hold.

AFINA_SKY=PYTHON python tests/launching/record_schema.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from afina.launch.sky_engine import VERSION, find_sky

RESOURCES = ("infra", "accelerators", "use_spot", "disk_size", "max_hourly_cost", "autostop", "ports")
TASK = ("name", "num_nodes", "workdir", "secrets", "run")


def recorded(schema: dict[str, Any], resources: dict[str, Any]) -> dict[str, Any]:
    """Both levels closed, as SkyPilot closes them; of keys that afina does not write only that there are such."""

    def narrowed(given: dict[str, Any], used: tuple[str, ...]) -> dict[str, Any]:
        assert given["additionalProperties"] is False, "an unknown key would be taken"
        keys = {name: given["properties"][name] if name in used else {} for name in sorted(given["properties"])}
        return {"type": "object", "additionalProperties": False, "properties": keys}

    task = narrowed(schema, TASK)
    task["properties"]["resources"] = narrowed(resources, RESOURCES)
    return task


if __name__ == "__main__":
    said = find_sky().ask("schema")["said"]
    both = {"skypilot": VERSION, "schema": recorded(said["task"], said["resources"])}
    file = Path(__file__).with_name("task_schema.json")
    file.write_text(json.dumps(both, indent=1) + "\n", encoding="utf-8")
