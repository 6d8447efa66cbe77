"""Two targets for spans that are not sent: nobody is there."""

from __future__ import annotations

from spool.settings.target import Target

MINE = Target.langfuse("pk-lf-mine", "sk-lf-mine", "https://langfuse.example")
OTHERS = Target.langfuse("pk-lf-others", "sk-lf-others", "https://langfuse.example")
