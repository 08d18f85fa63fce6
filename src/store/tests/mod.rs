//! The store by its results: what a flush leaves in the file, and what the views show of it.

mod flushes;
mod hostile;
mod starts;
mod support;
mod views;
