//! Examples of Smalti, the quickstart among them.
