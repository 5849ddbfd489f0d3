import pytest
from pydantic import BaseModel, ConfigDict, Field

from compressor.contracts import registry
from compressor.contracts.described import Described, descriptions
from compressor.plan import schema
from compressor.plan.specs import Spec


class Told(BaseModel):
    """As pydantic tells it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    width: int = 1
    """How wide."""
    """Not this."""
    height: int = Field(default=1, description="How high.")
    """Not this either."""
    depth: int = Field(default=1, alias="deep")
    """
    How deep,
        in two lines.
    """
    bare: int = 1

    class Inner(BaseModel):
        size: int = 1
        """Of something else."""

    def size(self) -> int:
        """A method."""
        return self.width


class Same(Described):
    """As pydantic tells it."""

    width: int = 1
    """How wide."""
    """Not this."""
    height: int = Field(default=1, description="How high.")
    """Not this either."""
    depth: int = Field(default=1, alias="deep")
    """
    How deep,
        in two lines.
    """
    bare: int = 1

    class Inner(BaseModel):
        size: int = 1
        """Of something else."""

    def size(self) -> int:
        """A method."""
        return self.width


class Derived(Same):
    """Says one of them anew."""

    width: int = 2
    """How wide now."""
    length: int = 1
    """How long."""
    inner: Same | None = None
    """Which it holds."""


def test_a_field_is_described_by_the_docstring_below_it_as_pydantic_reads_it() -> None:
    told, same = Told.model_json_schema(), Same.model_json_schema()
    assert {**same, "title": "Told"} == told
    assert descriptions(Same) == {name: field.description or "" for name, field in Told.model_fields.items()}


def test_what_is_inherited_keeps_its_description_and_what_is_declared_anew_has_a_new_one() -> None:
    fields = Derived.model_json_schema()["properties"]
    assert fields["width"]["description"] == "How wide now."
    assert fields["height"]["description"] == "How high."
    assert fields["deep"]["description"] == "How deep,\n    in two lines."
    assert fields["inner"]["description"] == "Which it holds."
    assert "description" not in fields["bare"]


def test_a_class_in_a_function_is_read_too() -> None:
    class Local(Described):
        """Of a function."""

        width: int = 1
        """Says it
at the margin."""

    assert descriptions(Local) == {"width": "Says it\nat the margin."}


def test_a_class_whose_source_is_nowhere_has_no_descriptions() -> None:
    names: dict[str, object] = {"Described": Described, "__name__": "nowhere"}
    exec("class Typed(Described):\n    width: int = 1\n    'How wide.'\n", names)
    made = names["Typed"]
    assert isinstance(made, type)
    assert issubclass(made, Described)
    assert descriptions(made) == {"width": ""}
    assert made.model_json_schema()["properties"]["width"] == {"default": 1, "title": "Width", "type": "integer"}


@pytest.mark.parametrize("kind", ["pass", "target", "probe", "task", "objective"])
def test_every_parameter_of_a_plug_in_is_described_in_the_schema(kind: str) -> None:
    for name in registry.known(kind):
        plugin = registry.load(kind, name)
        for key, field in plugin.model_json_schema().get("properties", {}).items():
            assert field.get("description"), f"{kind} {name}: {key}"


def test_every_key_of_a_plan_is_described() -> None:
    for part in schema.PARTS:
        assert all(descriptions(part).values()), part.__name__


def test_a_part_of_a_plan_is_made_without_reading_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: object) -> str:
        raise AssertionError("read")

    monkeypatch.setattr("compressor.contracts.described.inspect.getsource", refused)

    class Light(Spec):
        """Made now."""

        width: int = 1
        """How wide."""

    assert Light(width=2).width == 2
