// Body of sgd; LOAD4(array, i) is vector i of an array.
void step4(uint i);
void step1(uint i, bool good);
#define STEP4(i) step4(i)
#define STEP1(i, good) step1(i, good)
#define CLEAR4(i) grads4[i] = vec4(0.0)
#include "knobs.glsl"

float rate, factor, decay, momentum;

// Weight decay is part of the gradient. The first velocity is the gradient itself, because m begins at 0.
vec4 moved(vec4 x, vec4 g, inout vec4 velocity) {
    velocity = momentum * velocity + (g * factor + decay * x);
    return x - rate * velocity;
}

void step4(uint i) {
    vec4 velocity = LOAD4(m, i);
    params4[i] = moved(LOAD4(params, i), LOAD4(grads, i), velocity);
    m4[i] = velocity;
    grads4[i] = vec4(0.0);
}

void step1(uint i, bool good) {
    vec4 velocity = vec4(m[i]);
    float after = moved(vec4(params[i]), vec4(grads[i]), velocity).x;
    if (good) {
        params[i] = after;
        m[i] = velocity.x;
    }
    grads[i] = 0.0;
}

void main() {
    Knobs k = read_knobs();
    vec4 s = stats4[0];
    rate = k.lr;
    factor = s.y;
    decay = k.weight_decay;
    momentum = k.momentum;
    walk(s.z != 0.0);
}
