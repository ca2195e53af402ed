"""Metal's language, as naga writes it for a kernel, turned into CUDA's and OpenCL's, for compilers that take no WGSL.

For counting registers, not for running: buffers come as pointers in the order of their bindings.
"""

import re

# What of Metal's library naga's text calls, for CUDA. Divisions and exponentials are the fast ones, as Metal's are.
CUDA_LIBRARY = r"""
typedef unsigned int uint;
#define FN __device__ __forceinline__
namespace metal {
typedef unsigned int uint;
template <class T> struct same { typedef T type; };  // of operands that follow the other's type
struct uint3 { uint x, y, z; };
struct packed_uint3 {
  uint x, y, z;
  FN packed_uint3(uint3 a) : x(a.x), y(a.y), z(a.z) {}
  FN uint operator[](uint i) const { return (&x)[i]; }
};
template <class T> struct alignas(2 * sizeof(T)) vector2 {
  T x, y;
  vector2() = default;
  FN constexpr vector2(T a) : x(a), y(a) {}
  FN constexpr vector2(T a, T b) : x(a), y(b) {}
};
template <class T> struct alignas(4 * sizeof(T)) vector4 {
  T x, y, z, w;
  vector4() = default;
  FN constexpr vector4(T a) : x(a), y(a), z(a), w(a) {}
  FN constexpr vector4(T a, T b, T c, T d) : x(a), y(b), z(c), w(d) {}
  FN T &operator[](uint i) { return (&x)[i]; }
};
typedef vector2<float> float2;
typedef vector2<uint> uint2;
typedef vector4<float> float4;
typedef vector4<uint> uint4;
typedef vector4<bool> bool4;
struct float4x4 {
  float4 columns[4];
  float4x4() = default;
  FN float4x4(float4 a, float4 b, float4 c, float4 d) : columns{a, b, c, d} {}
  FN float4 &operator[](uint i) { return columns[i]; }
};
FN float4x4 transpose(float4x4 a) {
  return float4x4(float4(a[0].x, a[1].x, a[2].x, a[3].x), float4(a[0].y, a[1].y, a[2].y, a[3].y),
                  float4(a[0].z, a[1].z, a[2].z, a[3].z), float4(a[0].w, a[1].w, a[2].w, a[3].w));
}

FN float divide(float a, float b) { return __fdividef(a, b); }
FN uint divide(uint a, uint b) { return a / b; }
FN float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
FN float exp(float a) { return __expf(a); }
FN float log(float a) { return __logf(a); }
FN float sqrt(float a) { return __fsqrt_rn(a); }
FN float rsqrt(float a) { return rsqrtf(a); }
FN float abs(float a) { return fabsf(a); }
FN float max(float a, float b) { return fmaxf(a, b); }
FN float min(float a, float b) { return fminf(a, b); }
FN uint max(uint a, uint b) { return a > b ? a : b; }
FN int max(int a, int b) { return a > b ? a : b; }
FN uint min(uint a, uint b) { return a < b ? a : b; }
template <class T> FN T clamp(T a, T b, T c) { return min(max(a, b), c); }
template <class T> FN T select(T a, T b, bool c) { return c ? b : a; }
template <class T> FN vector4<T> select(vector4<T> a, vector4<T> b, bool4 c) {
  return vector4<T>(c.x ? b.x : a.x, c.y ? b.y : a.y, c.z ? b.z : a.z, c.w ? b.w : a.w);
}
FN float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }
FN float4 fma(float4 a, float4 b, float4 c) {
  return float4(fma(a.x, b.x, c.x), fma(a.y, b.y, c.y), fma(a.z, b.z, c.z), fma(a.w, b.w, c.w));
}

// entry by entry: of two vectors, or of a vector and a number
#define PAIRS(NAME, EACH)                                                                                            \
  template <class T> FN vector2<T> NAME(vector2<T> a, vector2<T> b) { return {EACH(a.x, b.x), EACH(a.y, b.y)}; }     \
  template <class T> FN vector4<T> NAME(vector4<T> a, vector4<T> b) {                                                \
    return {EACH(a.x, b.x), EACH(a.y, b.y), EACH(a.z, b.z), EACH(a.w, b.w)};                                         \
  }
#define NUMBERS(NAME)                                                                                                \
  template <class T> FN vector2<T> NAME(vector2<T> a, typename same<T>::type b) { return NAME(a, vector2<T>(b)); }   \
  template <class T> FN vector2<T> NAME(typename same<T>::type a, vector2<T> b) { return NAME(vector2<T>(a), b); }   \
  template <class T> FN vector4<T> NAME(vector4<T> a, typename same<T>::type b) { return NAME(a, vector4<T>(b)); }   \
  template <class T> FN vector4<T> NAME(typename same<T>::type a, vector4<T> b) { return NAME(vector4<T>(a), b); }
#define ADD(a, b) a + b
#define SUBTRACT(a, b) a - b
#define MULTIPLY(a, b) a * b
PAIRS(operator+, ADD) NUMBERS(operator+)
PAIRS(operator-, SUBTRACT) NUMBERS(operator-)
PAIRS(operator*, MULTIPLY) NUMBERS(operator*)
PAIRS(operator/, divide) NUMBERS(operator/)
PAIRS(max, max)
PAIRS(min, min)
template <class T> FN vector4<T> operator-(vector4<T> a) { return {-a.x, -a.y, -a.z, -a.w}; }
#define COMPARE(SIGN)                                                                                                \
  template <class T> FN bool4 operator SIGN(vector4<T> a, vector4<T> b) {                                            \
    return {a.x SIGN b.x, a.y SIGN b.y, a.z SIGN b.z, a.w SIGN b.w};                                                 \
  }
COMPARE(<) COMPARE(<=) COMPARE(>) COMPARE(>=)
#define SINGLE(NAME) FN float4 NAME(float4 a) { return {NAME(a.x), NAME(a.y), NAME(a.z), NAME(a.w)}; }
SINGLE(exp) SINGLE(log) SINGLE(sqrt) SINGLE(rsqrt) SINGLE(abs)
}
template <class To, class From> FN To as_type(From from) { To to; memcpy(&to, &from, sizeof to); return to; }
"""

OPENCL_LIBRARY = """
typedef int4 bool4;
#define select(a, b, c) ((c) ? (b) : (a))
typedef struct { float4 columns[4]; } float4x4;
float4x4 transpose(float4x4 a) {
  float4 *c = a.columns;
  return (float4x4){{(float4)(c[0].x, c[1].x, c[2].x, c[3].x), (float4)(c[0].y, c[1].y, c[2].y, c[3].y),
                     (float4)(c[0].z, c[1].z, c[2].z, c[3].z), (float4)(c[0].w, c[1].w, c[2].w, c[3].w)}};
}
float4x4 matrix_of(float4 a, float4 b, float4 c, float4 d) { return (float4x4){{a, b, c, d}}; }
"""


class Kernel:
    """naga's text of one kernel in parts: what stands before the entry point, its parameters, and its body.

    buffers and shared hold (type, name) of each in order, places (name, what it is) of what tells a lane where it stands.
    """

    def __init__(self, msl):
        head = re.search(r"^kernel void (\w+)\((.*?)\) \{$", msl, re.M | re.S)
        before = msl[: head.start()]
        # the standard headers, and the sizes of runtime arrays, which nothing unchecked reads
        before = re.sub(r"^(//|#include|using).*$", "", before, flags=re.M)
        # no array ends where naga says: their length is the buffer's
        self.before = re.sub(r"^(typedef .*)\[1\];$", r"\1[1 << 24];", before, flags=re.M)
        self.body = msl[head.end() :]
        self.buffers, self.shared, self.places = [], [], []
        for parameter in re.split(r"\n, ", head[2].strip()):
            text = re.sub(r"\[\[.*\]\]", "", parameter).strip()
            space = text.split()[0]
            name = re.search(r"(\w+)$", text)[1]
            kind = re.sub(r"^(device|threadgroup|constant) |const|&|\w+$", "", text).strip()
            if space in ("device", "constant"):
                self.buffers.append((kind, name))
            elif space == "threadgroup":
                self.shared.append((kind, name))
            elif "[[" in parameter and "stage_in" not in parameter:
                self.places.append((name, re.search(r"\[\[(\w+)", parameter)[1]))


def cuda(msl, name, lanes):
    """The kernel as a function `name` of CUDA, in a namespace of its own; CUDA_LIBRARY must stand before it."""
    kernel = Kernel(msl)
    before = re.sub(r"^constant ", "static constexpr __device__ const ", kernel.before, flags=re.M)
    before = re.sub(r"^([\w:]+ \w+\()", r"__device__ __forceinline__ \1", before, flags=re.M)
    parameters = ", ".join(f"{kind} *{name}_at" for kind, name in kernel.buffers)
    places = {
        "threadgroup_position_in_grid": "metal::uint3 {0} = {{blockIdx.x, blockIdx.y, blockIdx.z}};",
        "threadgroups_per_grid": "metal::uint3 {0} = {{gridDim.x, gridDim.y, gridDim.z}};",
        "thread_index_in_threadgroup": "uint {0} = threadIdx.x;",
    }
    start = [f"{kind} &{name} = *{name}_at;" for kind, name in kernel.buffers]
    start += [f"__shared__ {kind} {name};" for kind, name in kernel.shared]
    start += [places[place].format(name) for name, place in kernel.places]
    text = (
        f"namespace {name}_space {{\n{before}\n"
        f'extern "C" __global__ void __launch_bounds__({lanes}) {name}({parameters}) {{\n'
        + "\n".join(start)
        + kernel.body
        + "\n}\n"
    )
    text = re.sub(r"\b(device|threadgroup|thread|constant) ", "", text)
    text = re.sub(r"(?<![\w.])(\d+\.\d+(e[+-]?\d+)?)", r"\1f", text)  # else they are doubles there
    return re.sub(r"metal::threadgroup_barrier\([^;]*\);", "__syncthreads();", text)


def opencl(msl, lanes):
    """The kernel as a program of OpenCL C with one function `main_`: no references, no constructors, no namespaces there."""
    # other names of types: `typedef metal::float4 Chunk;`
    for kind, alias in re.findall(r"^typedef (\S+) (\w+);$", msl, re.M):
        msl = re.sub(rf"^typedef .* {alias};$", "", msl, flags=re.M)
        msl = re.sub(rf"\b{alias}\b", kind, msl)
    # names of variables that are keywords there
    kernel = Kernel(re.sub(r"\b(local|global|private)\b", r"\1_", msl))
    structs = re.findall(r"^struct (\w+) \{", kernel.before, re.M)
    spaces = {"device": "__global", "threadgroup": "__local", "constant": "__constant"}
    found = re.findall(r"^typedef (\S+) (\w+)\[1 << 24\];$", kernel.before, re.M)
    arrays = {name: element for element, name in found}

    def pointer(space, kind, name):
        return f"{spaces[space]} {arrays.get(kind, kind)}* {name}"

    # what is passed by reference: arrays decay to pointers by themselves, members of structures need an arrow
    def parameter(match):
        space, kind, name = match[1], match[2], match[4]
        return pointer("device" if space == "constant" else space, kind, name)

    before = re.sub(r"^typedef .*\[1 << 24\];\n", "", kernel.before, flags=re.M)
    before = re.sub(r"^constant ", "__constant ", before, flags=re.M)
    before = re.sub(r"\b(device|threadgroup|constant) (\w\S*)( const)?& (\w+)", parameter, before)
    buffers = ", ".join(pointer("device", kind, name) for kind, name in kernel.buffers)
    places = {
        "threadgroup_position_in_grid": "uint3 {0} = (uint3)(get_group_id(0), get_group_id(1), get_group_id(2));",
        "threadgroups_per_grid": "uint3 {0} = (uint3)(get_num_groups(0), get_num_groups(1), get_num_groups(2));",
        "thread_index_in_threadgroup": "uint {0} = get_local_id(0);",
    }
    start = [f"__local {kind} {name}_in; __local {kind}* {name} = &{name}_in;" for kind, name in kernel.shared]
    start += [places[place].format(name) for name, place in kernel.places]
    text = (
        before
        + f"\n__attribute__((reqd_work_group_size({lanes}, 1, 1))) __kernel void main_({buffers}) {{\n"
        + "\n".join(start)
        + kernel.body
    )
    for kind, name in kernel.buffers + kernel.shared:
        if kind in structs:
            text = re.sub(rf"\b{name}\.", f"{name}->", text)
    return OPENCL_LIBRARY + in_c(text, structs)


def in_c(text, structs):
    """Metal's constructors, casts and functions in the words of OpenCL C."""
    # Name {1, 2} makes a structure; a definition gives it its short name
    for name in structs:
        text = re.sub(rf"(?<!struct )\b{name} \{{", f"({name}) {{", text)
        text = re.sub(rf"^struct {name} \{{", f"typedef struct {name} {name};\nstruct {name} {{", text, flags=re.M)
    # matrices are structures of columns there
    for name in set(re.findall(r"metal::float4x4 (\w+)", text)):
        text = re.sub(rf"\b{name}\[", f"{name}.columns[", text)
    text = re.sub(r"static_cast<([\w:]+)>\(", r"(\1)(", text)
    text = text.replace("metal::float4x4(", "matrix_of(").replace("metal::float4x4 {}", "(float4x4){0}")
    text = re.sub(r"metal::float4x4 (\w+) = \{\};", r"metal::float4x4 \1 = {{0}};", text)
    # a vector's entries have names, no numbers
    for name in re.findall(r"metal::packed_uint3 (\w+);", text):
        text = re.sub(rf"\.{name}\[([012])\]", rf".{name}.s\1", text)
    text = text.replace("packed_uint3", "uint3")

    # {} makes zeros
    def zero(match):
        return f"{match[1]} {match[2]} = " + ("{0};" if match[1] in structs else f"({match[1]})(0);")

    text = re.sub(r"([\w:]+) (\w+) = \{\};", zero, text)
    text = re.sub(r"metal::threadgroup_barrier\([^;]*\);", "barrier(CLK_LOCAL_MEM_FENCE);", text)
    text = re.sub(r"\bas_type<(\w+)>", r"as_\1", text)
    text = re.sub(r"(?:metal::)?\b((?:float|uint)[234]?) \{\}", r"(\1)(0)", text)
    text = re.sub(r"metal::((float|uint)[234])\(", r"(\1)(", text)
    text = re.sub(r"metal::(exp|log|sqrt|rsqrt|exp2)\(", r"native_\1(", text)
    text = text.replace("metal::abs(", "fabs(")
    return text.replace("metal::", "")
