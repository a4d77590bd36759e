//! The strict handlebars registry: every template embedded, every variable required, nothing escaped.
