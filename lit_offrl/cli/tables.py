"""Tables whose texts may be longer than a column is wide: paths, commands, sentences."""

from rich.table import Table


def folding_table(*headers: str, title: str | None = None) -> Table:
    """Make a table that breaks what is too long for its column, where rich would cut it off."""
    table = Table(title=title, title_justify="left")
    for header in headers:
        table.add_column(header, overflow="fold")
    return table
