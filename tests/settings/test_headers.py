from __future__ import annotations

import pytest

from spool.errors import SettingsError
from spool.settings.target import Target


@pytest.mark.parametrize(
    ("name", "value"), [("bad name", "x"), ("", "x"), ("x", "one\r\ntwo: three"), ("x", "\u2603")]
)
def test_a_header_that_http_forbids_is_refused_without_its_value(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match="HTTP forbids") as caught:
        Target.otlp("http://collector", {name: f"s3cret{value}"})
    assert "s3cret" not in str(caught.value)
