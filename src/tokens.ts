/**
 * What the plugins of mlbench share, and other extensions may ask for.
 */

import { Token } from '@lumino/coreutils';

import type { Client } from './api/client';
import type { NewsFeed } from './api/news';

/** The server half: questions and news. */
export interface IMlbench {
  readonly client: Client;
  readonly news: NewsFeed;
}

export const IMlbench = new Token<IMlbench>(
  'mlbench:IMlbench',
  'Asks the server half of mlbench about runs, steps and jobs, and brings its news.'
);
