from __future__ import annotations

import pytest

from syncline.actors.postgres.rowkey import key_sql, key_text, key_text_of_cells, quote_identifier


def test_a_key_is_a_json_array_of_texts_without_white_space() -> None:
    assert key_text(["a", "1"]) == '["a","1"]'


def test_only_quotes_backslashes_and_control_characters_are_escaped() -> None:
    assert key_text(['"\\\n\x01\x7fé😀/']) == '["\\"\\\\\\n\\u0001\x7fé😀/"]'


def test_cells_of_the_stream_spell_the_same_key() -> None:
    assert key_text_of_cells(["é".encode(), b"1"]) == key_text(["é", "1"])


def test_a_key_cell_is_never_null() -> None:
    with pytest.raises(ValueError, match="NULL"):
        key_text_of_cells([b"1", None])


def test_the_sql_uses_output_functions_and_quotes_names() -> None:
    assert key_sql(["id", 'a"b'], "t") == """array_to_json(ARRAY[format('%s', t."id"), format('%s', t."a""b")])::text"""
    assert key_sql(["id"]) == """array_to_json(ARRAY[format('%s', "id")])::text"""
    assert quote_identifier("Select") == '"Select"'
