"""The parts of HTML pages: charts, galleries, sections, style."""
