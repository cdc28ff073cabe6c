//! The whole system in one test process. Everything is in `tests/`, by user story.
