"""Reports of a study: tables, figures, and one page to explore and choose in."""

from moofusion.comparison.report.commands import export_command, report_command
from moofusion.comparison.report.write import write_report

__all__ = ["export_command", "report_command", "write_report"]
