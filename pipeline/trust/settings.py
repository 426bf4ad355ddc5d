"""How a trust root is set up: `provenance/trust.yaml`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from pipeline.strict import Strict, read_yaml, validate

Days = Annotated[int, Field(strict=True, ge=1, le=7300)]


class RootSettings(Strict):
    """The root's keys."""

    keys: Annotated[int, Field(strict=True, ge=1, le=9)]
    threshold: Annotated[int, Field(strict=True, ge=1, le=9)]
    days: Days

    @model_validator(mode="after")
    def _reachable(self) -> "RootSettings":
        if self.threshold > self.keys:
            raise ValueError("threshold: more keys have to sign than there are")
        return self


class Life(Strict):
    """For how long something holds."""

    days: Days


class Settings(Strict):
    """What stands in trust.yaml."""

    root: RootSettings
    targets: Life
    online: Life
    warn: Life

    def days(self, role: str) -> int:
        """How long new metadata of a role hold."""
        return {"root": self.root.days, "targets": self.targets.days}.get(role, self.online.days)


def read_settings(checkout: Path) -> Settings:
    """The settings of a checkout. Raises DefinitionError."""
    path = checkout / "provenance" / "trust.yaml"
    return validate(Settings, read_yaml(path), path)
