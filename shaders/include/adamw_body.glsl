// Body of adamw; LOAD4(array, i) is vector i of an array.
void step4(uint i);
void step1(uint i, bool good);
#define STEP4(i) step4(i)
#define STEP1(i, good) step1(i, good)
#define CLEAR4(i) grads4[i] = vec4(0.0)
#include "knobs.glsl"

float decay, rate, factor, root, eps, rest1, beta2, rest2;

// The decay of the parameters comes before the step and does not enter the moments.
vec4 moved(vec4 x, vec4 g, inout vec4 mean, inout vec4 square) {
    g *= factor;
    mean += (g - mean) * rest1;
    square = beta2 * square + rest2 * g * g;
    return x * decay - rate * (mean / (sqrt(square) / root + eps));
}

void step4(uint i) {
    vec4 mean = LOAD4(m, i), square = LOAD4(v, i);
    params4[i] = moved(LOAD4(params, i), LOAD4(grads, i), mean, square);
    m4[i] = mean;
    v4[i] = square;
    grads4[i] = vec4(0.0);
}

void step1(uint i, bool good) {
    vec4 mean = vec4(m[i]), square = vec4(v[i]);
    float after = moved(vec4(params[i]), vec4(grads[i]), mean, square).x;
    if (good) {
        params[i] = after;
        m[i] = mean.x;
        v[i] = square.x;
    }
    grads[i] = 0.0;
}

void main() {
    Knobs k = read_knobs();
    vec4 s = stats4[0];
    decay = 1.0 - k.lr * k.weight_decay;
    rate = k.lr / k.correction1;
    root = sqrt(k.correction2);
    factor = s.y;
    eps = k.eps;
    rest1 = k.rest1;
    beta2 = k.beta2;
    rest2 = k.rest2;
    walk(s.z != 0.0);
}
