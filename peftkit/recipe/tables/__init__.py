"""The tables of a recipe that name no component, as frozen, strict pydantic models."""
