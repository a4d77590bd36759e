//! CNI: configuration lists, plugins, results.
