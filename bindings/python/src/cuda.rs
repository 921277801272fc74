//! Arrays in GPU memory by `__cuda_array_interface__`
//! (<https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html>), versions 0 to 3.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rtmo_engine::DeviceStream;

/// The GPU that an engine computes on.
#[derive(Clone, Copy, Debug)]
pub struct Gpu {
    /// The `1` of `cuda:1`.
    pub ordinal: i32,
    /// The handle of the stream in which it reads pictures.
    pub stream: u64,
}

/// What an object says of its memory.
pub struct Interface {
    pub address: u64,
    pub shape: Vec<usize>,
    /// In bytes.
    pub strides: Vec<isize>,
    /// In numpy's words.
    pub dtype: String,
    /// Where its numbers are written.
    pub stream: DeviceStream,
}

/// Whether an object has one.
pub fn has_interface(object: &Bound<'_, PyAny>) -> bool {
    object.hasattr("__cuda_array_interface__").unwrap_or(false)
}

impl Interface {
    /// Of an object that has one.
    ///
    /// # Errors
    /// What the object raises; `TypeError` if a field is missing or says what the protocol does not allow.
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Interface> {
        let all = object.getattr("__cuda_array_interface__")?;
        let all = all.cast::<PyDict>().map_err(|_| wrong("expected a dict"))?;
        let given = |name: &str| Ok::<_, PyErr>(all.get_item(name)?.filter(|value| !value.is_none()));
        let needed = |name: &str| given(name)?.ok_or_else(|| wrong(&format!("'{name}' is missing")));
        let typed = |name: &str, expected: &str| wrong(&format!("'{name}': expected {expected}"));

        let shape: Vec<usize> =
            needed("shape")?.extract().map_err(|_| typed("shape", "a tuple of numbers from 0 on"))?;
        let typestr: String = needed("typestr")?.extract().map_err(|_| typed("typestr", "a text"))?;
        let (address, _): (u64, bool) =
            needed("data")?.extract().map_err(|_| typed("data", "an address and a truth value"))?;
        let strides = match given("strides")? {
            Some(strides) => {
                strides.extract().map_err(|_| typed("strides", "None or a tuple of numbers of bytes"))?
            }
            None => without_gaps(&shape),
        };
        if strides.len() != shape.len() {
            return Err(wrong(&format!("{} strides for {} sides", strides.len(), shape.len())));
        }
        if given("mask")?.is_some() {
            return Err(wrong("'mask': expected None, since all pixels of a picture count"));
        }
        let stream = match given("stream")? {
            None => DeviceStream::Ready,
            Some(stream) => match stream.extract::<u64>() {
                Ok(1) => DeviceStream::Legacy,
                Ok(2) => DeviceStream::PerThread,
                Ok(handle) if handle != 0 => DeviceStream::Handle(handle),
                _ => return Err(typed("stream", "None, 1, 2 or a stream's handle")),
            },
        };
        let dtype = match &*typestr {
            "|u1" | "<u1" | ">u1" | "=u1" => "uint8".into(),
            // numpy knows its own words.
            other => object.py().import("numpy")?.call_method1("dtype", (other,))?.str()?.to_string(),
        };
        Ok(Interface { address, shape, strides, dtype, stream })
    }
}

/// Distances in bytes of an array of bytes whose last index is fastest.
fn without_gaps(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i].try_into().unwrap_or(isize::MAX));
    }
    strides
}

fn wrong(what: &str) -> PyErr {
    PyTypeError::new_err(format!("image: __cuda_array_interface__: {what}"))
}
