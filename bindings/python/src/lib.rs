//! The Python package's native module: arguments in, arrays out. What Python users see is in `python/rtmo_engine`.

mod cuda;
mod dlpack;
mod engine;
mod errors;
mod evaluate;
mod images;
mod people;
mod track;
mod weights;
mod words;

use pyo3::prelude::*;

/// What `rtmo_engine` is made of. Its names are no interface.
#[pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use crate::engine::Engine;
    #[pymodule_export]
    use crate::evaluate::evaluate;
    #[pymodule_export]
    use crate::images::device_image;
    #[pymodule_export]
    use crate::people::{plot, skeleton, to_coco, to_json};
    #[pymodule_export]
    use crate::track::{Smoother, Tracker};
    #[pymodule_export]
    use crate::weights::{download, find, models};

    /// The package's version.
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
