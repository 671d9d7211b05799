//! `vpnat top`: what goes on now, on a terminal.
//!
//! [`sample`] reads the maps, [`model`] makes rates of two samples, [`ui`] knows what the operator has asked for, [`draw`]
//! puts it into a buffer of cells, and [`screen`] has the terminal. All but the first and the last are free of I/O.

pub mod draw;
pub mod model;
pub mod sample;
pub mod screen;
mod text;
pub mod ui;

#[cfg(test)]
mod tests;
