//! Arrays of other libraries by DLPack (<https://dmlc.github.io/dlpack/>): torch, jax, cupy and others hand over where their numbers
//! are, without a copy. Both forms of the protocol are taken: capsules named `dltensor`, and `dltensor_versioned` of version 1.

use crate::cuda::Gpu;
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

/// Where memory is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    kind: i32,
    id: i32,
}

/// What an element is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Element {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct RawTensor {
    data: *mut c_void,
    place: Place,
    dimensions: i32,
    element: Element,
    shape: *const i64,
    /// In elements; null: without gaps, the last index fastest.
    strides: *const i64,
    byte_offset: u64,
}

/// `DLManagedTensor`.
#[repr(C)]
struct Managed {
    tensor: RawTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

/// `DLManagedTensorVersioned`. Only `version` and `deleter` may be read before the version is known.
#[repr(C)]
struct Versioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Versioned)>,
    flags: u64,
    tensor: RawTensor,
}

/// The newest version that is known.
const VERSION: (u32, u32) = (1, 1);

const PLAIN: &CStr = c"dltensor";
const PLAIN_TAKEN: &CStr = c"used_dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";
const VERSIONED_TAKEN: &CStr = c"used_dltensor_versioned";

impl Place {
    /// Where an object says that its memory is; `None` if it does not speak the protocol.
    pub fn of(object: &Bound<'_, PyAny>) -> Option<Place> {
        let (kind, id) = object.call_method0("__dlpack_device__").ok()?.extract().ok()?;
        Some(Place { kind, id })
    }

    /// Whether a CPU reads it as any other memory: its own, and memory that is pinned for CUDA or ROCm.
    pub fn is_host(self) -> bool {
        matches!(self.kind, 1 | 3 | 11)
    }

    /// The number of the GPU whose memory it is, if CUDA reads it: its own, and managed memory.
    pub fn cuda(self) -> Option<i32> {
        matches!(self.kind, 2 | 13).then_some(self.id)
    }

    /// For people.
    pub fn name(self) -> String {
        let kind = match self.kind {
            2 => "CUDA",
            4 => "OpenCL",
            7 => "Vulkan",
            8 => "Metal",
            10 => "ROCm",
            13 => "CUDA, managed",
            14 => "oneAPI",
            _ => return format!("a device of DLPack's type {}, number {}", self.kind, self.id),
        };
        format!("GPU {} ({kind})", self.id)
    }
}

/// The owner of a capsule's tensor: calls its deleter once, at the end.
enum Owner {
    Plain(NonNull<Managed>),
    Versioned(NonNull<Versioned>),
}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: the capsule's tensor is ours since the capsule was renamed, and nobody uses it after this. Python's lock is
        // held: owners live in `Tensor`s, which live while a method that Python called has not returned.
        unsafe {
            match *self {
                Owner::Plain(tensor) => {
                    if let Some(deleter) = tensor.as_ref().deleter {
                        deleter(tensor.as_ptr());
                    }
                }
                Owner::Versioned(tensor) => {
                    if let Some(deleter) = tensor.as_ref().deleter {
                        deleter(tensor.as_ptr());
                    }
                }
            }
        }
    }
}

/// An array that another library owns.
pub struct Tensor {
    /// Keeps `data` alive.
    _owner: Owner,
    /// The first element, in the computer's memory or a GPU's.
    data: *const u8,
    /// Elements each way.
    shape: Vec<i64>,
    /// Elements from one index to the next, each way.
    strides: Vec<i64>,
    element: Element,
}

impl Tensor {
    /// Takes over an object's array in the computer's memory, or, with `gpu`, in that GPU's. Whoever has written it then makes
    /// the GPU's stream wait for the numbers.
    ///
    /// # Errors
    /// What the object raises; `BufferError` if its capsule is none, has been used, or is of another version; `TypeError` if the
    /// array is elsewhere.
    pub fn take(object: &Bound<'_, PyAny>, gpu: Option<Gpu>) -> PyResult<Tensor> {
        let py = object.py();
        let options = PyDict::new(py);
        if let Some(gpu) = gpu {
            options.set_item("stream", gpu.stream)?;
        }
        let newer = options.copy()?;
        newer.set_item("max_version", VERSION)?;
        let capsule = match object.call_method("__dlpack__", (), Some(&newer)) {
            // Older libraries do not know max_version.
            Err(error) if error.is_instance_of::<PyTypeError>(py) => {
                object.call_method("__dlpack__", (), Some(&options))?
            }
            capsule => capsule?,
        };
        Tensor::new(own(&capsule)?, gpu)
    }

    fn new(owner: Owner, gpu: Option<Gpu>) -> PyResult<Tensor> {
        // SAFETY: the owner's tensor is alive, and of a version whose layout is known: `own` has seen to it.
        let tensor = unsafe {
            match &owner {
                Owner::Plain(tensor) => &tensor.as_ref().tensor,
                Owner::Versioned(tensor) => &tensor.as_ref().tensor,
            }
        };
        let (expected, here) = match gpu {
            None => ("the computer's memory".to_string(), tensor.place.is_host()),
            Some(gpu) => {
                (format!("the memory of GPU {}", gpu.ordinal), tensor.place.cuda() == Some(gpu.ordinal))
            }
        };
        if !here {
            return Err(PyTypeError::new_err(format!(
                "image: expected an array in {expected}, got one in that of {}",
                tensor.place.name()
            )));
        }
        let wrong = |what: &str| PyBufferError::new_err(format!("image: a DLPack tensor {what}"));
        let n =
            usize::try_from(tensor.dimensions).map_err(|_| wrong("of a negative number of dimensions"))?;
        if n > 0 && tensor.shape.is_null() {
            return Err(wrong("without a shape"));
        }
        // SAFETY: the protocol promises `n` numbers at `shape`, and at `strides` where that is not null.
        let numbers = |at: *const i64| (0..n).map(|i| unsafe { at.add(i).read() }).collect::<Vec<i64>>();
        let shape = if n == 0 { Vec::new() } else { numbers(tensor.shape) };
        if shape.iter().any(|&side| side < 0) {
            return Err(wrong("with a negative side"));
        }
        let strides =
            if n == 0 || tensor.strides.is_null() { without_gaps(&shape) } else { numbers(tensor.strides) };
        let empty = shape.contains(&0);
        if tensor.data.is_null() && !empty {
            return Err(wrong("without data"));
        }
        let offset =
            usize::try_from(tensor.byte_offset).map_err(|_| wrong("with an offset beyond memory"))?;
        let data = tensor.data.cast::<u8>().cast_const().wrapping_add(offset);
        Ok(Tensor { data, shape, strides, element: tensor.element, _owner: owner })
    }

    /// Elements each way, and from one index to the next; as many as fit this computer's numbers.
    pub fn sides(&self) -> (Vec<usize>, Vec<isize>) {
        let shape = self.shape.iter().map(|&n| n.try_into().unwrap_or(usize::MAX)).collect();
        (shape, self.strides.iter().filter_map(|&n| n.try_into().ok()).collect())
    }

    /// The first element.
    pub fn data(&self) -> *const u8 {
        self.data
    }

    /// The kind of its elements in numpy's words.
    pub fn dtype(&self) -> String {
        let Element { code, bits, lanes } = self.element;
        let kind = match code {
            0 => "int",
            1 => "uint",
            2 => "float",
            4 => "bfloat",
            5 => "complex",
            6 => "bool",
            _ => return format!("an element of DLPack's type {code}"),
        };
        if lanes == 1 { format!("{kind}{bits}") } else { format!("{lanes} {kind}{bits}") }
    }
}

/// Distances of an array whose last index is fastest.
fn without_gaps(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1i64; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}

/// Takes the tensor out of a capsule, which is marked as used.
fn own(capsule: &Bound<'_, PyAny>) -> PyResult<Owner> {
    let py = capsule.py();
    // SAFETY: the capsule is an object of Python's, and names are texts that stay.
    let named = |name: &CStr| unsafe { ffi::PyCapsule_IsValid(capsule.as_ptr(), name.as_ptr()) } == 1;
    // SAFETY: as above; a valid capsule of that name holds a pointer, which is not null. It is ours once the name is changed.
    let taken = |name: &CStr, used: &'static CStr| unsafe {
        let pointer = ffi::PyCapsule_GetPointer(capsule.as_ptr(), name.as_ptr());
        match NonNull::new(pointer) {
            Some(pointer) if ffi::PyCapsule_SetName(capsule.as_ptr(), used.as_ptr()) == 0 => Ok(pointer),
            _ => Err(PyErr::fetch(py)),
        }
    };
    if named(VERSIONED) {
        let tensor = taken(VERSIONED, VERSIONED_TAKEN)?.cast::<Versioned>();
        let owner = Owner::Versioned(tensor);
        // SAFETY: these two fields are where they are in every version.
        let (major, minor) = unsafe { ((*tensor.as_ptr()).major, (*tensor.as_ptr()).minor) };
        if major != VERSION.0 {
            return Err(PyBufferError::new_err(format!(
                "image: a DLPack tensor of version {major}.{minor}: expected {}.x",
                VERSION.0
            )));
        }
        return Ok(owner);
    }
    if named(PLAIN) {
        return Ok(Owner::Plain(taken(PLAIN, PLAIN_TAKEN)?.cast()));
    }
    let kind = capsule.get_type().qualname()?;
    let what = if named(PLAIN_TAKEN) || named(VERSIONED_TAKEN) {
        "one that was used before"
    } else {
        &*kind.to_string()
    };
    Err(PyBufferError::new_err(format!("image: __dlpack__: expected a capsule of DLPack's, got {what}")))
}
