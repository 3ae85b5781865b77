// The page "data".
import { element, getJSON } from "./api.js";

void [element, getJSON];
