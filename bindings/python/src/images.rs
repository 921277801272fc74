//! Pictures from Python: arrays of numpy, PIL images, paths.

use crate::errors::{OrRaise, usage};
use numpy::ndarray::Array3;
use numpy::{PyArray3, PyArrayMethods, PyReadonlyArray3, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use rtmo_engine::{ChannelOrder, Image, Photo, Result};
use std::path::PathBuf;

/// A picture that Python gave. Pixels in an array stay where they are.
pub enum Given<'py> {
    /// Rows of pixels of three bytes that follow one another, at any distance between rows.
    Array(PyReadonlyArray3<'py, u8>, Layout),
    /// Pixels that were copied to rows without gaps, since they were in another layout.
    Copied(Vec<u8>, Layout),
    /// A file.
    File(PathBuf),
}

/// Where the pixels of an array are.
#[derive(Clone, Copy)]
pub struct Layout {
    width: usize,
    height: usize,
    /// Bytes from row to row.
    stride: usize,
    order: ChannelOrder,
    /// Bytes from the first value of the array to the first byte of the first pixel: -2 where channels run backwards.
    offset: isize,
}

/// A picture while Python's lock is released.
pub enum Picture<'a> {
    /// Pixels in memory.
    Memory(Image<'a>),
    /// A file.
    File(&'a PathBuf),
}

impl<'py> Given<'py> {
    /// A picture from an object; `rgb` says the order of an array's channels.
    ///
    /// # Errors
    /// `TypeError` if it is nothing that pictures are made of, `ValueError` if it has another shape.
    pub fn new(object: &Bound<'py, PyAny>, rgb: bool) -> PyResult<Given<'py>> {
        let order = if rgb { ChannelOrder::Rgb } else { ChannelOrder::Bgr };
        if let Ok(array) = object.cast::<PyUntypedArray>() {
            return Given::array(array, order);
        }
        if let Ok(path) = object.extract::<PathBuf>() {
            return Ok(Given::File(path));
        }
        if on_gpu(object) {
            return Err(PyTypeError::new_err(
                "image: this array is in GPU memory (__cuda_array_interface__ or DLPack), which is not taken yet: \
                 expected an array in the computer's memory; copy it there, for example by tensor.cpu().numpy()",
            ));
        }
        let numpy = object.py().import("numpy")?;
        if is_pil(object)? {
            let mode: String = object.getattr("mode")?.extract()?;
            if mode.starts_with('I') || mode == "F" {
                return Err(usage(format!(
                    "image: a PIL image of mode {mode}: expected 8 bits a channel, such as RGB or L"
                )));
            }
            let pixels = numpy.call_method1("asarray", (object.call_method1("convert", ("RGB",))?,))?;
            return Given::array(pixels.cast()?, ChannelOrder::Rgb);
        }
        if object.hasattr("__array_interface__")? || object.hasattr("__array__")? {
            return Given::array(numpy.call_method1("asarray", (object,))?.cast()?, order);
        }
        let kind = object.get_type().qualname()?;
        Err(PyTypeError::new_err(format!(
            "image: expected a numpy array of uint8 and shape (height, width, 3), a PIL image or a path, got {kind}"
        )))
    }

    fn array(array: &Bound<'py, PyUntypedArray>, order: ChannelOrder) -> PyResult<Given<'py>> {
        let Ok(pixels) = array.cast::<PyArray3<u8>>() else {
            return Err(unsuitable(array));
        };
        let &[height, width, channels] = array.shape() else { return Err(unsuitable(array)) };
        if channels != 3 {
            return Err(unsuitable(array));
        }
        if width == 0 || height == 0 {
            return Err(usage(format!("image: {width}x{height} pixels: expected at least one")));
        }
        let &[row, pixel, channel] = array.strides() else { return Err(unsuitable(array)) };
        let pixels = pixels.try_readonly()?;
        let reversed = match order {
            ChannelOrder::Rgb => ChannelOrder::Bgr,
            _ => ChannelOrder::Rgb,
        };
        // In a single column or row, numpy's distance to the next is any number.
        let pixel = if width == 1 { 3 } else { pixel };
        let stride = if height == 1 { 3 * width } else { row.try_into().unwrap_or(0) };
        let layout = |order, offset| Layout { width, height, stride, order, offset };
        match (pixel, channel) {
            (3, 1) if stride >= 3 * width => Ok(Given::Array(pixels, layout(order, 0))),
            (3, -1) if stride >= 3 * width => Ok(Given::Array(pixels, layout(reversed, -2))),
            _ => {
                let all: Array3<u8> = pixels.as_array().as_standard_layout().into_owned();
                let (bytes, _) = all.into_raw_vec_and_offset();
                Ok(Given::Copied(bytes, Layout { stride: 3 * width, ..layout(order, 0) }))
            }
        }
    }

    /// The picture, for use while Python's lock is released.
    ///
    /// # Errors
    /// If a side is too long.
    pub fn picture(&self) -> PyResult<Picture<'_>> {
        match self {
            Given::File(path) => Ok(Picture::File(path)),
            Given::Copied(bytes, layout) => {
                let image = Image::new(layout.width, layout.height, layout.order, bytes);
                Ok(Picture::Memory(image.or_raise()?))
            }
            Given::Array(pixels, layout) => {
                let Layout { width, height, stride, order, offset } = *layout;
                let bytes = stride * (height - 1) + width * 3;
                // SAFETY: the array has `height` rows of `width` pixels, which `array` found `stride` and 3 bytes apart,
                // with their three bytes side by side; `offset` leads to the lowest of them. So the bytes from there to the
                // last byte of the last pixel lie within the memory that the array holds, which `pixels` keeps alive.
                // Another thread that writes to it meanwhile changes what is computed; the documentation forbids it.
                let data = unsafe { std::slice::from_raw_parts(pixels.data().offset(offset), bytes) };
                let image =
                    Image::new(width, height, order, data).and_then(|image| image.with_stride(stride));
                Ok(Picture::Memory(image.or_raise()?))
            }
        }
    }
}

impl Picture<'_> {
    /// A copy of its pixels.
    ///
    /// # Errors
    /// If it is a file that cannot be read.
    pub fn to_photo(&self) -> Result<Photo> {
        match self {
            Picture::Memory(image) => Ok(image.to_photo()),
            Picture::File(path) => Photo::open(path),
        }
    }
}

/// Why an array is no picture.
fn unsuitable(array: &Bound<'_, PyUntypedArray>) -> PyErr {
    let (shape, dtype) = (array.shape(), array.dtype().to_string());
    if dtype != "uint8" {
        let hint = match dtype.starts_with("float") {
            true => "; values from 0 to 1 become (255 * image).astype(numpy.uint8)",
            false => "",
        };
        return PyTypeError::new_err(format!("image: expected an array of uint8, got {dtype}{hint}"));
    }
    let hint = match shape {
        [_, _, 4] => "; image[..., :3] leaves out the alpha channel",
        [_, _] | [_, _, 1] => {
            "; numpy.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2) makes three channels of a grey one"
        }
        [3, _, _] => "; image.transpose(1, 2, 0) has the channels last",
        [_, _, _, 3] => "; a batch is a list of images: list(array)",
        _ => "",
    };
    let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
    usage(format!("image: expected shape (height, width, 3), got ({}){hint}", shape.join(", ")))
}

/// Whether pixels are in a GPU's memory.
fn on_gpu(object: &Bound<'_, PyAny>) -> bool {
    const DL_CPU: i32 = 1;
    const DL_CUDA_HOST: i32 = 3;
    let device = object.call_method0("__dlpack_device__").and_then(|device| device.extract::<(i32, i32)>());
    object.hasattr("__cuda_array_interface__").unwrap_or(false)
        || device.is_ok_and(|(kind, _)| kind != DL_CPU && kind != DL_CUDA_HOST)
}

/// Whether an object is an image of PIL, which need not be installed.
fn is_pil(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let of_pil = |class: Bound<'_, PyAny>| {
        let module = class.getattr("__module__").and_then(|name| name.extract::<String>());
        module.is_ok_and(|name| name == "PIL.Image")
    };
    for class in object.get_type().mro().iter() {
        if of_pil(class) {
            return object.hasattr("convert");
        }
    }
    Ok(false)
}
